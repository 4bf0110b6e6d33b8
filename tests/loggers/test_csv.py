"""CSVLogger: rows on disk, new columns, resume, disks that fail."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fulmen.demos import BoringModel
from fulmen.loggers import CSVLogger
from fulmen.trainer import Trainer


def table(logger: CSVLogger) -> list[dict[str, str]]:
    with open(logger.experiment.metrics_file_path, newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_each_call_is_a_row_and_columns_are_sorted():
    logger = CSVLogger("logs")
    logger.log_metrics({"loss": 1.5, "epoch": 0}, step=4)
    logger.log_metrics({"acc": torch.tensor(0.5), "epoch": 0}, step=9)
    logger.finalize("success")

    text = Path("logs/lightning_logs/version_0/metrics.csv").read_bytes()
    assert text == b"acc,epoch,loss,step\r\n,0,1.5,4\r\n0.5,0,,9\r\n"


def test_a_new_column_after_a_flush_keeps_earlier_rows():
    logger = CSVLogger("logs")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.save()
    logger.log_metrics({"acc": 3.0}, step=2)
    logger.save()

    assert table(logger) == [{"loss": "1.0", "step": "0"}, {"loss": "2.0", "step": "1"}, {"acc": "3.0", "step": "2"}]
    assert logger.experiment.metrics_keys == ["acc", "loss", "step"]


def test_a_resumed_run_neither_doubles_nor_misses_rows():
    whole = CSVLogger("whole")
    for step in range(6):
        whole.log_metrics({"loss": step / 3, **({"late": 1.0} if step > 3 else {})}, step)
    whole.finalize("success")

    killed = CSVLogger("killed")
    for step in range(5):
        if step == 3:
            state = killed.state_dict()
        killed.log_metrics({"loss": step / 3, **({"late": 1.0} if step > 3 else {})}, step)
    killed.save()

    resumed = CSVLogger("killed")
    resumed.load_state_dict(state)
    assert resumed.version == 0
    for step in range(3, 6):
        resumed.log_metrics({"loss": step / 3, **({"late": 1.0} if step > 3 else {})}, step)
    resumed.finalize("success")

    assert Path(resumed.log_dir, "metrics.csv").read_bytes() == Path(whole.log_dir, "metrics.csv").read_bytes()


def test_rows_are_written_every_so_many_steps():
    logger = CSVLogger("logs", flush_logs_every_n_steps=10)
    for step in range(3, 19):
        logger.log_metrics({"loss": 1.0}, step)

    assert [row["step"] for row in table(logger)] == [str(step) for step in range(3, 10)]
    assert len(logger.experiment.metrics) == 9
    logger.finalize("success")
    assert len(table(logger)) == 16


def test_rows_without_a_step_are_counted_and_names_get_the_prefix():
    logger = CSVLogger("logs", prefix="train", flush_logs_every_n_steps=2)
    for _ in range(3):
        logger.log_metrics({"loss": 1.0})
    logger.save()

    assert [(row["train-loss"], row["step"]) for row in table(logger)] == [("1.0", "0"), ("1.0", "1"), ("1.0", "2")]


def test_rows_of_an_earlier_run_in_the_same_folder_are_kept_beside():
    for number in (1, 2):
        logger = CSVLogger("logs", version="run")
        logger.log_metrics({"loss": number}, 0)
        if number == 2:
            with pytest.warns(UserWarning, match=r"metrics.csv was there before.*rows are in .*metrics-1.csv"):
                logger.save()
        logger.finalize("success")

    assert Path(logger.log_dir, "metrics-1.csv").read_bytes() == b"loss,step\r\n1,0\r\n"
    assert Path(logger.log_dir, "metrics.csv").read_bytes() == b"loss,step\r\n2,0\r\n"


def test_a_resumed_run_tells_of_rows_that_are_gone():
    logger = CSVLogger("logs")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    state = logger.state_dict()
    Path(logger.log_dir, "metrics.csv").write_bytes(b"loss,step\r\n1.0,0\r\n1.0,")

    resumed = CSVLogger("logs")
    with pytest.warns(UserWarning, match=r"1 rows before the checkpoint are missing in .*metrics.csv"):
        resumed.load_state_dict(state)
    assert len(table(resumed)) == 2


def test_a_new_version_that_was_begun_by_mistake_leaves_no_folder():
    logger = CSVLogger("logs")
    logger.log_metrics({"loss": 1.0}, 0)
    state = logger.state_dict()

    resumed = CSVLogger("logs")
    _ = resumed.experiment
    resumed.load_state_dict(state)

    assert os.listdir("logs/lightning_logs") == ["version_0"]


def test_a_folder_that_vanishes_costs_one_warning_and_no_row():
    logger = CSVLogger("logs", flush_logs_every_n_steps=1)
    logger.log_metrics({"loss": 0.0}, 0)
    os.rename("logs", "gone")
    with pytest.warns(UserWarning, match=r"The log logs.*metrics.csv could not be written: No such file"):
        logger.log_metrics({"loss": 1.0}, 1)
    logger.log_metrics({"loss": 2.0}, 2)
    os.rename("gone", "logs")
    logger.log_metrics({"loss": 3.0}, 3)
    logger.finalize("success")

    assert [row["step"] for row in table(logger)] == ["0", "1", "2", "3"]


FULL_DISK = """
import resource, signal
from fulmen.demos import BoringModel
from fulmen.loggers import CSVLogger
from fulmen.trainer import Trainer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logger = CSVLogger("logs", flush_logs_every_n_steps=1)
for step in range(100):
    if step == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    if step == 90:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    logger.log_metrics({"loss": step / 3} if step % 30 else {"acc": 1.0}, step)
logger.finalize("success")
"""


@pytest.mark.slow
def test_a_full_disk_loses_no_row_and_leaves_no_torn_one():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    run = subprocess.run([sys.executable, "-c", FULL_DISK], env=environment, capture_output=True, text=True, check=True)

    assert run.stderr.count("metrics.csv could not be written: File too large") == 1
    rows = table(CSVLogger("logs", version=0))
    assert [int(row["step"]) for row in rows] == list(range(100))
    assert rows[31] == {"loss": str(31 / 3), "step": "31"}
    assert os.listdir("logs/lightning_logs/version_0") == ["metrics.csv"]


@pytest.mark.filterwarnings("ignore:The log .* could not be written")
def test_a_disk_that_fails_is_not_tried_with_each_row(monkeypatch):
    logger, tried = CSVLogger("logs", flush_logs_every_n_steps=10), []
    save = logger.experiment.save
    monkeypatch.setattr(logger.experiment, "save", lambda: (tried.append(1), save()))
    os.rename("logs", "gone")
    for _ in range(45):
        logger.log_metrics({"loss": 0.0})
    assert len(tried) == 4


def test_rows_that_never_found_room_are_counted_at_the_end():
    logger = CSVLogger("logs", flush_logs_every_n_steps=1)
    logger.log_metrics({"loss": 0.0}, 0)
    os.rename("logs", "gone")
    with pytest.warns(UserWarning, match="could not be written"):
        logger.log_metrics({"loss": 1.0}, 1)
    with pytest.warns(UserWarning, match=r"1 rows of metrics could not be written to logs.*metrics.csv"):
        logger.finalize("failed")


def test_a_store_holds_versions_and_rows():
    for version in (0, 1):
        logger = CSVLogger("memory://logs", name="digits")
        assert logger.version == version
        logger.log_metrics({"loss": 1.0}, 0)
        logger.save()
        logger.log_metrics({"loss": 2.0}, 1)
        state = logger.state_dict()
        logger.log_metrics({"loss": 3.0}, 2)
        logger.save()

    resumed = CSVLogger("memory://logs", name="digits")
    resumed.load_state_dict(state)
    resumed.log_metrics({"loss": 4.0}, 2)
    resumed.finalize("success")

    from fsspec import filesystem

    text = filesystem("memory").cat_file("/logs/digits/version_1/metrics.csv")
    assert text == b"loss,step\r\n1.0,0\r\n2.0,1\r\n4.0,2\r\n"


class Counted(BoringModel):
    def training_step(self, batch, batch_idx):
        self.log("count", float(batch_idx), on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val", 0.5)


def test_a_training_writes_its_rows():
    trainer = Trainer(
        max_epochs=1, limit_train_batches=4, limit_val_batches=2, num_sanity_val_steps=0, log_every_n_steps=2,
        logger=CSVLogger("logs"), enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Counted())

    assert table(CSVLogger("logs", version=0)) == [
        {"count_step": "1.0", "epoch": "0", "step": "1"},
        {"count_step": "3.0", "epoch": "0", "step": "3"},
        {"val": "0.5", "epoch": "0", "step": "3"},
        {"count_epoch": "1.5", "epoch": "0", "step": "3"},
    ]
