"""CSVLogger: rows in metrics.csv, hyperparameters in hparams.yaml."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from itertools import count, islice
from typing import Any

from torch import Tensor

from fulmen.checkpoint import places
from fulmen.checkpoint.places import exists, is_remote, join
from fulmen.loggers import base
from fulmen.warn import rank_zero_only, rank_zero_warn


class ExperimentWriter:
    """The files of one run. Rows wait in `metrics` until `save`, which appends them.

    A new column makes `save` write the whole file once; columns stand in alphabetical order.
    """

    NAME_HPARAMS_FILE = base.HPARAMS_FILE
    NAME_METRICS_FILE = "metrics.csv"

    def __init__(self, log_dir: str) -> None:
        base.open_folder(log_dir)
        self.log_dir = log_dir
        self.metrics_file_path = join(log_dir, self.NAME_METRICS_FILE)
        self.metrics: list[dict[str, Any]] = []
        self.metrics_keys: list[str] = []
        self.hparams: dict[str, Any] = {}
        self.num_rows = 0
        self.num_lost = 0
        self._num_bytes = 0
        self._saved_hparams: dict[str, Any] = {}

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Add hyperparameters; `save` writes them."""
        self.hparams.update(base.hyperparameters(params))

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Add a row; without a step its number stands there."""
        for name, value in metrics_dict.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"The metric {name!r} has the shape {tuple(value.shape)}; a CSV file takes numbers.")
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics_dict.items()}
        row["step"] = self.num_rows + len(self.metrics) if step is None else step
        self.metrics.append(row)

    def save(self) -> None:
        """Write what waits; what a failing disk does not take keeps waiting."""
        if self.hparams != self._saved_hparams and base.save_hparams(self.log_dir, self.hparams):
            self._saved_hparams = dict(self.hparams)
        if not self.metrics:
            return
        try:
            self._write_rows()
        except OSError as error:
            base.warn_unwritten(self.metrics_file_path, error)
            self.num_lost += max(0, len(self.metrics) - base.MAX_WAITING)
            del self.metrics[: -base.MAX_WAITING]

    def cut(self, num_rows: int, columns: list[str]) -> None:
        """Continue the file that stands there after its first `num_rows` rows."""
        kept = self._written(num_rows) if exists(self.metrics_file_path) else []
        if columns:
            self._num_bytes = base.write(self.metrics_file_path, _text(columns, kept, header=True))
        else:
            places.remove(self.metrics_file_path)
        self.metrics, self.metrics_keys, self.num_rows = [], columns, len(kept)
        if len(kept) < num_rows:
            rank_zero_warn(
                f"{num_rows - len(kept)} rows before the checkpoint are missing in {self.metrics_file_path}."
            )

    def _write_rows(self) -> None:
        path = self.metrics_file_path
        columns = sorted({name for row in self.metrics for name in row}.union(self.metrics_keys))
        if columns == self.metrics_keys and not is_remote(path):  # most stores cannot append
            self._append(_text(columns, self.metrics).encode())
        else:
            if not self.metrics_keys:
                _put_aside(path)
            before = self._written(self.num_rows) if self.num_rows else []
            self._num_bytes = base.write(path, _text(columns, [*before, *self.metrics], header=True))
        self.metrics_keys = columns
        self.num_rows += len(self.metrics)
        self.metrics = []

    def _append(self, content: bytes) -> None:
        with open(self.metrics_file_path, "r+b") as file:
            file.truncate(self._num_bytes)  # a write that failed may have left half a row
            file.seek(self._num_bytes)
            file.write(content)
        self._num_bytes += len(content)

    def _written(self, num_rows: int) -> list[dict[str, Any]]:
        text = places.read(self.metrics_file_path).decode()
        return list(islice(csv.DictReader(io.StringIO(text, newline="")), num_rows))


def _text(columns: list[str], rows: Iterable[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _put_aside(path: str) -> None:
    """An earlier run's rows that nobody continues are kept in a file beside."""
    if exists(path):
        stem, ending = os.path.splitext(path)
        other = next(name for n in count(1) if not exists(name := f"{stem}-{n}{ending}"))
        base.write(other, places.read(path).decode())
        rank_zero_warn(f"{path} was there before this run; its rows are in {other} now.")


class CSVLogger(base.FolderLogger):
    """Writes metrics to `save_dir/name/version_N/metrics.csv`, hyperparameters to hparams.yaml beside it.

        trainer = Trainer(logger=CSVLogger("logs", name="digits"))

    Args:
        save_dir: the folder in which experiments are saved, here or in a store.
        name: the experiment; "" leaves its folder out.
        version: the run's number, or a text that is the name of its folder; by default the next free number.
        prefix: put before the name of each metric.
        flush_logs_every_n_steps: after so many steps the rows are written to the file.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._flush_logs_every_n_steps = flush_logs_every_n_steps
        self._flushed = 0

    @property
    @base.rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of this run's files; it makes their folder when it is first asked for."""
        if self._experiment is None:
            self._experiment = ExperimentWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Add hyperparameters; `save` writes them."""
        self.experiment.log_hparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Add a row."""
        writer, every = self.experiment, self._flush_logs_every_n_steps
        writer.log_metrics(base.prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR), step)
        flushes = self._flushed if step is None else (step + 1) // every
        if flushes != self._flushed or len(writer.metrics) % every == 0:  # also where a disk lets them wait
            self._flushed = flushes
            writer.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that wait."""
        self.experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows that wait; say which were lost to a failing disk."""
        if self._experiment is None:
            return
        self.save()
        if lost := self._experiment.num_lost + len(self._experiment.metrics):
            rank_zero_warn(f"{lost} rows of metrics could not be written to {self._experiment.metrics_file_path}.")

    def state_dict(self) -> dict[str, Any]:
        """Which run this is, and how many rows it has written; rows that wait are written first."""
        if self._experiment is None:
            return {}
        self.save()
        writer: ExperimentWriter = self._experiment
        num_rows = writer.num_rows + len(writer.metrics)
        return {"name": self.name, "version": self.version, "rows": num_rows, "columns": list(writer.metrics_keys)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue that run's file after the rows it had at the checkpoint."""
        if state_dict and self.continues(state_dict):
            self._experiment = None
            self.experiment.cut(state_dict["rows"], state_dict["columns"])
