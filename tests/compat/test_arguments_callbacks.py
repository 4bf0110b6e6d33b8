"""Each old argument that is a callback today does what it did."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path

import pytest
import torch
from compat.trainers import QUIET, SMALL, has, quiet, then
from torch.utils.data import DataLoader

import fulmen as L
from fulmen import compat
from fulmen.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from fulmen.demos import BoringModel, RandomDataset
from fulmen.errors import MisconfigurationException, NonFiniteError
from fulmen.loggers import CSVLogger

pytestmark = pytest.mark.filterwarnings("ignore::fulmen.warn.PossibleUserWarning")


@pytest.mark.parametrize("value", [True, False])
def test_checkpoint_callback_as_a_switch(value):
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_checkpointing"}

    trainer = then(f"enable_checkpointing={value}", **arguments, **SMALL, checkpoint_callback=value)

    assert (has(trainer, ModelCheckpoint) is not None) == value


def test_checkpoint_callback_as_an_object(tmp_path):
    kept = ModelCheckpoint(dirpath=tmp_path, filename="mine")

    trainer = quiet("callbacks=[...]", checkpoint_callback=kept, enable_checkpointing=None)
    trainer.fit(BoringModel())

    assert trainer.checkpoint_callbacks == [kept]
    assert (tmp_path / "mine.ckpt").exists()


def test_early_stop_callback_as_a_switch_watches_val_loss():
    class Worse(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))

    trainer = quiet("callbacks=[...]", early_stop_callback=True, max_epochs=9)
    trainer.fit(Worse())

    assert trainer.current_epoch == 4
    assert has(trainer, EarlyStopping).patience == 3


def test_early_stop_callback_as_an_object():
    stopping = EarlyStopping("x")

    assert has(quiet("callbacks=[...]", early_stop_callback=stopping), EarlyStopping) is stopping


@pytest.mark.parametrize(("value", "depth"), [("top", 1), ("full", -1), (None, None)])
def test_weights_summary(value, depth):
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_model_summary"}
    words = "enable_model_summary=False" if value is None else f"ModelSummary(max_depth={depth})"

    summary = has(then(words, **arguments, **SMALL, weights_summary=value), ModelSummary)

    assert (
        (summary and summary._max_depth) == depth
        if hasattr(summary, "_max_depth")
        else (summary is None) == (depth is None)
    )


def test_weights_summary_in_another_word_is_an_error():
    with pytest.raises(MisconfigurationException, match="weights_summary='bottom' must be"):
        L.Trainer(weights_summary="bottom")


def test_progress_bar_refresh_rate():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}

    bar = has(
        then("refresh_rate=20", **arguments, **SMALL, progress_bar_refresh_rate=20, process_position=1), TQDMProgressBar
    )
    none = then("enable_progress_bar=False", **arguments, **SMALL, progress_bar_refresh_rate=0)

    assert (bar.refresh_rate, bar.process_position) == (20, 1)
    assert none.progress_bar_callback is None


def test_progress_bar_callback():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}
    bar = RichProgressBar()

    assert then("callbacks=[...]", **arguments, **SMALL, progress_bar_callback=bar).progress_bar_callback is bar
    assert then("=False", **arguments, **SMALL, progress_bar_callback=False).progress_bar_callback is None


def test_show_progress_bar():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}

    assert then("=False", **arguments, **SMALL, show_progress_bar=False).progress_bar_callback is None


class Losses(BoringModel):
    """Its loss is `value` in the third batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def training_step(self, batch, batch_idx):
        return self.step(batch) * (self.value if batch_idx == 2 else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_terminate_on_nan_stops_before_the_step(value):
    trainer = quiet("nonfinite='stop'", terminate_on_nan=True, limit_train_batches=5)

    with pytest.raises(NonFiniteError, match="batch 2"):
        trainer.fit(Losses(value))
    assert trainer.global_step == 2


def test_print_nan_grads_names_the_parameter_and_goes_on():
    trainer = quiet("nonfinite='warn'", print_nan_grads=True, limit_train_batches=4)

    with pytest.warns(UserWarning, match=r"the gradient of layer\.weight"):
        trainer.fit(Losses(math.nan))
    assert trainer.global_step == 4


@pytest.mark.parametrize("norm", [2, "inf"])
def test_track_grad_norm_logs_the_norms(norm):
    trainer = quiet("grad_norm", track_grad_norm=norm)
    trainer.fit(BoringModel())

    prefix = f"grad_{float(norm)}_norm"
    assert {f"{prefix}_total", f"{prefix}/layer.weight", f"{prefix}/layer.bias"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics[f"{prefix}_total"] > 0


def test_track_grad_norm_leaves_the_logging_to_the_module():
    class Own(BoringModel):
        def log_grad_norm(self, grad_norm_dict):
            self.log("mine", grad_norm_dict["grad_2.0_norm_total"])

    trainer = quiet("grad_norm", track_grad_norm=2)
    trainer.fit(Own())

    assert "mine" in trainer.callback_metrics
    assert "grad_2.0_norm_total" not in trainer.callback_metrics


@pytest.mark.parametrize("name", ["flush_logs_every_n_steps", "log_save_interval"])
def test_loggers_write_every_n_steps(name, tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1000)
    rows = []

    class Watching(BoringModel):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch)
            self.log("loss", loss)
            return loss

        def on_train_batch_start(self, batch, batch_idx):
            file = Path(logger.log_dir, "metrics.csv")
            rows.append(len(file.read_text().splitlines()) if file.exists() else 0)

    arguments = {**QUIET, "logger": logger}
    trainer = then("logger.save()", **arguments, max_epochs=1, limit_train_batches=5, limit_val_batches=0,
                   log_every_n_steps=1, **{name: 2})  # fmt: skip
    trainer.fit(Watching())

    assert rows[1] == 0
    assert rows[4] >= 3


@pytest.mark.parametrize(("imported", "batches"), [("loggers", [0, 3, 6]), ("core.datamodule", [2, 5])])
def test_rows_are_counted_within_each_epoch_until_0_9_from_its_first_batch_on(imported, batches, tmp_path):
    compat.install()
    importlib.import_module(f"pytorch_lightning.{imported}")

    class Logging(BoringModel):
        def training_step(self, batch, batch_idx):
            self.log("batch", float(batch_idx))
            return self.step(batch)

    arguments = {**QUIET, "logger": CSVLogger(tmp_path), "limit_train_batches": 7, "limit_val_batches": 0}
    then("log_every_n_steps=3", **arguments, max_epochs=2, row_log_interval=3).fit(Logging())

    rows = csv.DictReader(next(tmp_path.rglob("metrics.csv")).read_text().splitlines())
    assert [float(row["batch"]) for row in rows] == 2 * batches


@pytest.mark.gpu
def test_log_gpu_memory(tmp_path):
    arguments = {**QUIET, **SMALL, "logger": CSVLogger(tmp_path), "accelerator": "gpu", "log_every_n_steps": 1}
    then("DeviceStatsMonitor", **arguments, devices=1, log_gpu_memory="min_max").fit(BoringModel())

    assert "max_gpu_mem" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_log_gpu_memory_without_a_gpu_logs_nothing():
    trainer = quiet("DeviceStatsMonitor", log_gpu_memory="all")
    trainer.fit(BoringModel())

    assert trainer.global_step == 2


def test_weights_save_path_takes_the_checkpoints_only(tmp_path):
    arguments = {
        **QUIET,
        **SMALL,
        "enable_checkpointing": True,
        "logger": CSVLogger(tmp_path / "logs", name="run", version=3),
    }
    then("dirpath", **arguments, weights_save_path=tmp_path / "weights").fit(BoringModel())

    assert len(list((tmp_path / "weights" / "run" / "version_3" / "checkpoints").glob("*.ckpt"))) == 1
    assert not list((tmp_path / "logs").rglob("*.ckpt"))


@pytest.mark.parametrize(("mode", "steps"), [("min_size", 2), ("max_size_cycle", 4)])
@pytest.mark.parametrize("passed", [True, False])
def test_multiple_trainloader_mode(mode, steps, passed):
    loaders = [DataLoader(RandomDataset(32, 2)), DataLoader(RandomDataset(32, 4))]

    class Two(BoringModel):
        def training_step(self, batch, batch_idx):
            return self.step(batch[0]) + self.step(batch[1])

        def train_dataloader(self):
            return loaders

    words = "CombinedLoader" if mode == "min_size" else "can be left out"
    trainer = quiet(words, multiple_trainloader_mode=mode, limit_train_batches=1.0, limit_val_batches=0)
    trainer.fit(Two(), loaders if passed else None)

    assert trainer.global_step == steps


def test_automatic_optimization_of_the_trainer():
    class Manual(BoringModel):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.step(batch))
            optimizer.step()

    trainer = quiet("self.automatic_optimization", automatic_optimization=False)
    trainer.fit(Manual())

    assert trainer.global_step == 2


def test_truncated_bptt_steps_cuts_sequences_and_steps_after_each_part():
    class Recurrent(BoringModel):
        def __init__(self):
            super().__init__()
            self.seen = []

        def training_step(self, batch, batch_idx, hiddens):
            self.seen.append((tuple(batch.shape), None if hiddens is None else hiddens.item()))
            return {"loss": self.step(batch), "hiddens": torch.tensor(float(len(self.seen)))}

    model = Recurrent()
    steps = []
    model.on_before_optimizer_step = lambda optimizer: steps.append(optimizer)
    trainer = quiet("self.truncated_bptt_steps = 2", truncated_bptt_steps=2, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, DataLoader(torch.randn(1, 5, 32)))

    assert model.seen == [((1, 2, 32), None), ((1, 2, 32), 1.0), ((1, 1, 32), 2.0)]
    assert len(steps) == 3
    assert trainer.global_step == 1


def test_prepare_data_per_node():
    assert quiet("can be left out", prepare_data_per_node=True)
    L.Trainer(**QUIET, **SMALL, prepare_data_per_node=False)  # on one node the same
    with pytest.raises(MisconfigurationException, match=r"self\.prepare_data_per_node = False"):
        L.Trainer(num_nodes=2, prepare_data_per_node=False)
