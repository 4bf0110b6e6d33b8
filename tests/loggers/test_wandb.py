"""WandbLogger with the real wandb, offline; what it sent is read back from the run's file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
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
DecodeError = pytest.importorskip("google.protobuf.message").DecodeError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


def records(kind: str) -> list[Any]:
    """What the run wrote; the run is over after that."""
    wandb.finish()
    (path,) = Path().rglob("*.wandb")
    return [getattr(record, kind) for record in whole(path) if record.WhichOneof("record_type") == kind]


def whole(path: Path) -> list[Any]:
    """All records of a run that is over."""
    deadline_s = time.monotonic() + 20
    found: list[Any] = []
    while not found or found[-1].WhichOneof("record_type") != "exit":  # wandb's own process writes a moment later
        assert time.monotonic() < deadline_s, "the run's file was not written"
        with suppress(DecodeError):  # half a record
            found = written(path)
    return found


def written(path: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(content) for content in contents(path.read_bytes())]


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
    return [plain(one) for one in records("history")]


def plain(row: Any) -> dict[str, Any]:
    values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
    return {key: value for key, value in values.items() if not key.startswith("_")}


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
    assert state == {"id": run.id, "project": "digits", "rows": 0, "recent": []}
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


def steps_in(file: Path) -> list[int]:
    found = [plain(record.history) for record in written(file) if record.WhichOneof("record_type") == "history"]
    return [row["trainer/global_step"] for row in found]


@pytest.mark.parametrize(("saved_at", "is_lost"), [(2, False), (4, False), (3, True)])
def test_a_run_that_goes_on_after_a_kill_has_each_row_once(saved_at, is_lost):
    """What wandb wrote of the killed process is whole, or nothing, for it writes seconds later."""
    killed = WandbLogger(save_dir="logs")
    for step in range(4):
        if step == saved_at:
            state = killed.state_dict()
        killed.log_metrics({"loss": step / 2}, step)
    state = killed.state_dict() if saved_at == 4 else state
    wandb.finish()
    (file,) = Path("logs").resolve().glob("wandb/offline-run-*/*.wandb")
    whole(file)
    earlier = file.parent.rename(file.parent.with_name(f"offline-run-0-{killed.version}")) / file.name
    if is_lost:
        earlier.write_bytes(b"")

    resumed = WandbLogger(save_dir="logs")
    resumed.load_state_dict(state)
    for step in range(saved_at, 6):
        resumed.log_metrics({"loss": step / 2}, step)
        resumed.experiment.log({"mine": step, "trainer/global_step": 100}) if step == 5 else None
        assert resumed.state_dict()["rows"] == step + 1 + (step == 5)
    wandb.finish()

    (later,) = Path("logs").resolve().glob("wandb/offline-run-2*/*.wandb")
    whole(later)
    assert steps_in(earlier) + steps_in(later) == [*range(6), 100]


def test_a_fit_that_goes_on_in_a_run_that_is_open_has_each_row_once():
    first = WandbLogger(save_dir="logs")
    for step in range(4):
        first.log_metrics({"loss": 0.5}, step)
    state = {**first.state_dict(), "rows": 2}

    second = WandbLogger(save_dir="logs", id=first.version)
    second.load_state_dict(state)
    with pytest.warns(UserWarning, match="that is open"):
        second.log_metrics({"loss": 0.5}, 2)
    for step in range(3, 6):
        second.log_metrics({"loss": 0.5}, step)

    assert [row["trainer/global_step"] for row in rows()] == [*range(6)]


def test_a_run_that_goes_on_online_leaves_out_what_the_server_has():
    class Online:
        """A run of which the server has four rows."""

        id, offline, sync_dir = "mine", False, None

        def __init__(self) -> None:
            self.rows: list[int] = []

        @property
        def step(self) -> int:
            return 4 + len(self.rows)

        def log(self, data, step=None, commit=None):
            self.rows.append(data["trainer/global_step"])

    for then, sent in ((2, [4, 5]), (4, [4, 5]), (6, [4, 5, 6])):
        recent = [{"trainer/global_step": step} for step in range(then)]
        logger, run = WandbLogger(id="mine"), Online()
        logger.load_state_dict({"id": "mine", "project": "lightning_logs", "rows": then, "recent": recent})
        logger._begin(run)
        for step in range(then, max(then + 1, 6)):
            logger.log_metrics({"loss": 0.5}, step)
        assert run.rows == sent


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


def test_a_named_file_begins_rows_of_its_own_in_the_same_run():
    """Only a run that goes on with itself gives the same rows again."""

    class Logs(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 0.5)
            return super().training_step(batch, batch_idx)

    def fit(folder: str, path: Any = None) -> Path:
        saves = ModelCheckpoint("saves", every_n_train_steps=4, save_top_k=-1)
        Trainer(
            max_epochs=1, limit_train_batches=8, limit_val_batches=0, logger=WandbLogger(save_dir=folder, id="mine"),
            accelerator="cpu", log_every_n_steps=1, callbacks=[saves], enable_progress_bar=False,
        ).fit(Logs(), ckpt_path=path)  # fmt: skip
        wandb.finish()
        (file,) = Path(folder).resolve().glob("wandb/offline-run-*/*.wandb")
        whole(file)
        return file

    earlier = fit("logs").parent
    earlier.rename(earlier.with_name("0-mine"))
    assert steps_in(fit("logs", "saves/epoch=0-step=4.ckpt")) == [4, 5, 6, 7]


PROGRAM = """
import os, signal, sys, time
from fulmen import LightningModule, Trainer, seed_everything
from fulmen.callbacks import ModelCheckpoint
from fulmen.demos import BoringModel
from fulmen.loggers import WandbLogger

class Killed(BoringModel):
    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == int(sys.argv[1]):
            time.sleep(float(sys.argv[2]))
            os.kill(os.getpid(), signal.SIGKILL)
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("loss", loss)
        return loss

seed_everything(1)
options = dict(max_epochs=2, limit_train_batches=16, limit_val_batches=0, log_every_n_steps=2, accelerator="cpu")
Trainer(
    **options, resume="auto", logger=WandbLogger(save_dir="logs"), callbacks=[ModelCheckpoint(every_n_train_steps=5)],
    enable_progress_bar=False, enable_model_summary=False,
).fit(Killed())
"""


@pytest.mark.slow
def test_programs_that_are_killed_leave_each_row_once_in_their_run():
    """Killed at once, what wandb's process held is lost; after 16 seconds it is written."""
    Path("program.py").write_text(PROGRAM)
    for step, seconds, code in ((4, 0, -9), (13, 0, -9), (18, 16, -9), (28, 0, -9), (-1, 0, 0)):
        assert subprocess.run([sys.executable, "program.py", str(step), str(seconds)]).returncode == code
    files = sorted(Path("logs").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 5
    assert len({file.name for file in files}) == 1
    assert [step for file in files for step in steps_in(file)] == [*range(1, 32, 2)]
