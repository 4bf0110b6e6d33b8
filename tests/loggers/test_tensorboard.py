"""TensorBoardLogger: real event files, read back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fulmen.demos import BoringModel
from fulmen.loggers import TensorBoardLogger


def scalars(folder: str | None) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    in_time = {tag: sorted(events.Scalars(tag), key=lambda e: e.wall_time) for tag in events.Tags()["scalars"]}
    return {tag: [(e.step, e.value) for e in found] for tag, found in in_time.items()}


def test_metrics_are_scalars_and_dicts_share_a_chart():
    logger = TensorBoardLogger("logs", prefix="p")
    logger.log_metrics({"loss": torch.tensor(1.5), "epoch": 0, "acc": np.float32(0.25), "pair": {"a": 1, "b": 2.0}}, 7)
    logger.log_metrics({"loss": 2.0})
    logger.finalize("success")

    assert scalars(logger.log_dir) == {"p-loss": [(7, 1.5), (0, 2.0)], "p-epoch": [(7, 0.0)], "p-acc": [(7, 0.25)]}
    assert scalars(f"{logger.log_dir}/p-pair_a") == {"p-pair": [(7, 1.0)]}


@pytest.mark.parametrize("value", ["text", None, torch.ones(2)])
def test_a_value_that_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="metric 'loss' is " + re.escape(repr(value))):
        TensorBoardLogger("logs").log_metrics({"loss": value}, 0)


def test_hyperparameters_alone_get_a_placeholder_once():
    logger = TensorBoardLogger("logs")
    logger.log_hyperparams({"lr": 0.1, "net": {"width": 3, "sizes": (1, 2)}})
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")

    assert scalars(logger.log_dir) == {"hp_metric": [(0, -1.0)]}
    plugin = EventAccumulator(logger.log_dir).Reload().summary_metadata["_hparams_/session_start_info"].plugin_data
    assert b"net/width" in plugin.content
    assert b"[1, 2]" in plugin.content


def test_hyperparameters_with_metrics_and_without_a_placeholder():
    logger = TensorBoardLogger("logs", default_hp_metric=False)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_hyperparams({"lr": 0.1}, {"best": 3.0}, step=5)
    logger.log_hyperparams({"lr": 0.1}, 0.5)
    logger.finalize("success")

    assert scalars(logger.log_dir) == {"best": [(5, 3.0)], "hp_metric": [(0, 0.5)]}


def test_the_sub_folder_and_the_writers_arguments(monkeypatch):
    monkeypatch.setenv("PART", "one")
    logger = TensorBoardLogger("logs", name="digits", version="v", sub_dir="$PART", filename_suffix=".mine")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()

    assert (logger.sub_dir, logger.log_dir) == ("$PART", "logs/digits/v/one")
    events, hparams = sorted(os.listdir("logs/digits/v/one"))
    assert events.endswith(".mine")
    assert hparams == "hparams.yaml"  # empty, for tools that read it


def test_the_graph_needs_an_example_and_leaves_the_model_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model[2].eval()
    logger = TensorBoardLogger("logs", log_graph=True)
    with pytest.warns(UserWarning, match="set self.example_input_array"):
        logger.log_graph(model)
    random_state = torch.get_rng_state()
    logger.log_graph(model, torch.ones(3, 2))
    logger.finalize("success")

    assert [part.training for part in model] == [True, True, False]
    assert model[1].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), random_state)
    assert EventAccumulator(logger.log_dir).Reload().Tags()["graph"] is True


def test_a_resumed_run_neither_doubles_nor_misses_events():
    killed = TensorBoardLogger("logs")
    killed.log_hyperparams({"lr": 0.1})
    killed.log_metrics({"pair": {"a": 1.0}}, 0)
    for step in range(5):
        if step == 3:
            state = killed.state_dict()
            killed.log_metrics({"late": 1.0, "pair": {"a": 1.0}}, 100)
        killed.log_metrics({"loss": step}, step)
    killed.finalize("failed")
    other = TensorBoardLogger("logs/lightning_logs/version_0", name="")
    other.log_metrics({"other": 1.0}, 0)
    other.finalize("success")

    resumed = TensorBoardLogger("logs")
    resumed.load_state_dict(state)
    assert resumed.state_dict()["sizes"].keys() >= state["sizes"].keys(), "a checkpoint may come before the first row"
    resumed.log_hyperparams({"lr": 0.1})
    for step in range(3, 6):
        resumed.log_metrics({"loss": step}, step)
    resumed.finalize("success")

    assert resumed.version == 0
    expected = {"hp_metric": [(0, -1.0)], "loss": [(step, float(step)) for step in range(6)]}
    assert scalars(resumed.log_dir) == expected
    assert scalars(f"{resumed.log_dir}/pair_a") == {"pair": [(0, 1.0)]}
    assert scalars(other.log_dir) == {"other": [(0, 1.0)]}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_is_resumed_before_its_first_row_stays_in_its_folder():
    states = []

    class Model(BoringModel):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            states.append(self.logger.state_dict())

    logger = TensorBoardLogger("logs")
    assert logger.state_dict() == {}
    make_trainer(logger=logger, max_steps=1).fit(Model())
    again = TensorBoardLogger("logs")
    again.load_state_dict(states[0])
    again.log_metrics({"loss": 1.0}, 3)
    again.finalize("success")

    assert again.version == logger.version == 0
    assert scalars(logger.log_dir) == {"loss": [(3, 1.0)]}


def test_the_package_is_missed_at_once_and_imported_for_the_first_row(monkeypatch):
    program = """
import sys
import fulmen as L
from fulmen.demos import BoringModel
from fulmen.loggers import TensorBoardLogger

class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        self.log("seen", float("tensorboard" in sys.modules))
        return super().training_step(batch, batch_idx)

logger = TensorBoardLogger("logs")
trainer = L.Trainer(logger=logger, max_steps=4, log_every_n_steps=2, accelerator="cpu", enable_checkpointing=False)
trainer.fit(Model())
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert scalars("logs/lightning_logs/version_0")["seen"] == [(1, 0.0), (3, 1.0)]
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        make_trainer(logger=TensorBoardLogger("logs")).fit(BoringModel())


def test_a_folder_that_vanishes_costs_one_warning_and_no_scalar(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda error: None)  # TensorBoard's own thread dies of it
    logger = TensorBoardLogger("logs")
    logger.log_metrics({"loss": 0.0}, 0)
    logger.save()
    os.rename("logs", "gone")
    Path("logs").touch()  # a writer would make the folder again
    logger.log_metrics({"loss": 1.0}, 1)
    with pytest.warns(UserWarning, match="The log logs.* could not be written: Not a directory"):
        logger.save()
    logger.log_metrics({"loss": 2.0}, 2)
    logger.save()
    for thread in threading.enumerate():
        if "AsyncWriter" in type(thread).__name__:
            thread.join(1)
    os.unlink("logs")
    os.rename("gone", "logs")
    logger.log_metrics({"loss": 3.0}, 3)
    logger.finalize("success")

    assert scalars(logger.log_dir) == {"loss": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]}
