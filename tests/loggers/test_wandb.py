"""WandbLogger with the real wandb, offline; what it sent is read back from the run's file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fulmen.callbacks import Callback, ModelCheckpoint
from fulmen.demos import BoringModel
from fulmen.errors import MisconfigurationException
from fulmen.loggers import WandbLogger
from fulmen.trainer import Trainer
from fulmen.warn import rank_zero_only

wandb = pytest.importorskip("wandb")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


def records(kind: str) -> list[Any]:
    """What the run wrote; the run is over after that."""
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.finish()
    (path,) = Path().rglob("*.wandb")
    deadline_s = time.monotonic() + 20
    found: list[Any] = []
    while not found or found[-1].WhichOneof("record_type") != "exit":  # wandb's own process writes a moment later
        assert time.monotonic() < deadline_s, "the run's file was not written"
        found = [Record.FromString(content) for content in contents(path.read_bytes())]
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def contents(file: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, in which each piece has 7 bytes before it."""
    position, record = 7, b""
    while position + 7 <= len(file):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, whole_or_last = (
            int.from_bytes(file[position + 4 : position + 6], "little"),
            file[position + 6] in (1, 4),
        )
        record += file[position + 7 : position + 7 + length]
        position += 7 + length
        if whole_or_last:
            yield record
            record = b""


def rows() -> list[dict[str, Any]]:
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.item}
        for one in records("history")
    ]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]


def test_metrics_stand_over_the_step_and_media_beside_them():
    logger = WandbLogger(project="digits", job_type="train", save_dir="logs", prefix="p", tags=["a"])
    assert (logger.name, logger.version, logger.save_dir, logger.log_dir) == ("digits", None, "logs", None)
    logger.log_hyperparams({"lr": 0.1, "net": {"sizes": (1, 2)}})
    logger.log_metrics({"loss": 1.5, "epoch": 0}, step=7)
    logger.log_metrics({"loss": 2.5})
    logger.log_image("pictures", [torch.rand(3, 4, 4), torch.rand(3, 4, 4)], step=8, caption=["one", "two"])
    logger.log_text("texts", columns=["a"], data=[["b"]])
    logger.watch(torch.nn.Linear(1, 1))

    run = logger.experiment
    assert (run.job_type, run.tags, run.id) == ("train", ("a",), logger.version)
    assert dict(run.config) == {"lr": 0.1, "net": {"sizes": [1, 2]}}
    logged = rows()
    assert logged[0] == {"p-loss": 1.5, "p-epoch": 0, "trainer/global_step": 7}
    assert logged[1] == {"p-loss": 2.5, "trainer/global_step": 7}
    assert logged[2]["trainer/global_step"] == 8
    assert logged[2]["p-pictures/captions"] == ["one", "two"]
    assert logged[3]["p-texts/_type"] == "table-file"


def test_every_metric_has_the_global_step_as_its_axis():
    _ = WandbLogger(save_dir="logs").experiment
    assert [(record.name or record.glob_name, record.step_metric) for record in records("metric")] == [
        ("trainer/global_step", ""),
        ("*", "trainer/global_step"),
    ]


def test_an_open_run_is_used_and_a_checkpoint_leads_back_to_its_run():
    run = wandb.init(project="digits", dir=".")
    logger = WandbLogger(project="digits")
    with pytest.warns(UserWarning, match="logs to the run of wandb that is open"):
        assert logger.experiment is run
    assert WandbLogger(experiment=run).version == run.id
    state = logger.state_dict()
    assert state == {"id": run.id, "project": "digits"}
    wandb.finish()

    resumed, other, named = WandbLogger(project="digits"), WandbLogger(project="other"), WandbLogger(id="mine")
    for one in (resumed, other, named):
        one.load_state_dict(state)
    assert (resumed.version, other.version, named.version) == (run.id, None, "mine")


@pytest.mark.parametrize("log_model", [True, "all"])
def test_checkpoints_are_uploaded_as_they_come_or_at_the_end(log_model):
    logger = WandbLogger(save_dir="logs", log_model=log_model, checkpoint_name="net")
    callback = ModelCheckpoint(dirpath="saved", monitor="valid_loss", save_top_k=1)
    trainer = Trainer(
        max_epochs=2, limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1, logger=logger,
        callbacks=[callback], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Validated())

    sent = records("artifact")
    assert [(one.name, one.type) for one in sent] == [("net", "model")] * (1 if log_model is True else 2)
    assert sorted(sent[-1].aliases) == ["best", "latest"]
    metadata = json.loads(sent[-1].metadata)
    assert metadata["original_filename"] == Path(callback.best_model_path).name
    assert metadata["score"] == pytest.approx(float(callback.best_model_score))
    assert metadata["ModelCheckpoint"]["monitor"] == "valid_loss"


class Validated(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("valid_loss", self.step(batch))


class Pictures(Callback):
    """As a tutorial writes it."""

    def on_validation_epoch_end(self, trainer, pl_module):
        trainer.logger.experiment.log({"examples": [wandb.Image(torch.rand(3, 4, 4), caption="Pred: 1, Label: 2")]})


def test_a_training_logs_metrics_and_what_callbacks_send():
    trainer = Trainer(
        max_epochs=1, limit_train_batches=4, limit_val_batches=1, num_sanity_val_steps=0, log_every_n_steps=2,
        logger=WandbLogger(project="digits", job_type="train"), callbacks=[Pictures()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Validated())

    pictures, metrics = rows()
    assert pictures["examples/captions"] == ["Pred: 1, Label: 2"]
    assert sorted(metrics) == ["epoch", "trainer/global_step", "valid_loss"]


def test_wrong_arguments_are_told_with_the_way_out():
    with pytest.raises(MisconfigurationException, match=r"log_model='all' uploads.* offline=True forbids"):
        WandbLogger(offline=True, log_model="all")
    with pytest.raises(MisconfigurationException, match=r"log_model='some' must be True, False or 'all'"):
        WandbLogger(log_model="some")
    with pytest.raises(TypeError, match=r"images must be a list, but is a Tensor. Write images=\[...\]"):
        WandbLogger().log_image("key", torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match=r"caption has 1 values, but needs one for each of the 2 images"):
        WandbLogger().log_image("key", [1, 2], caption=["one"])


def test_other_ranks_begin_no_run():
    rank_zero_only.rank = 1
    logger = WandbLogger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.experiment.log({"loss": 1.0})
    logger.watch(torch.nn.Linear(1, 1))
    assert wandb.run is None


def test_without_wandb_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match="pip install wandb"):
        WandbLogger()


def test_a_run_with_checkpoints_in_the_default_folder_goes_on_under_its_id():
    class Fall(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    ids = []
    for callbacks in ([Fall()], []):
        logger = WandbLogger(save_dir="logs")
        trainer = Trainer(
            max_epochs=1, limit_train_batches=8, logger=logger, resume="auto", accelerator="cpu", log_every_n_steps=1,
            callbacks=[ModelCheckpoint(every_n_train_steps=4), *callbacks], enable_progress_bar=False,
        )  # fmt: skip
        try:
            trainer.fit(BoringModel())
        except KeyboardInterrupt:
            wandb.finish()
        ids.append(logger.version)
    assert ids[0] == ids[1]
    assert str(trainer.ckpt_path).endswith(f"logs/lightning_logs/{ids[0]}/checkpoints/epoch=0-step=4.ckpt")
