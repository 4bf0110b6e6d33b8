"""CSVLogger: rows on disk, new columns, resume, disks that fail."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from fulmen.errors import MisconfigurationException
from fulmen.loggers import CSVLogger


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


def test_a_file_in_the_way_of_the_folder_is_named():
    Path("logs").write_text("")
    with pytest.raises(MisconfigurationException, match=r"'logs.lightning_logs.version_0'.*is a file"):
        _ = CSVLogger("logs").experiment
