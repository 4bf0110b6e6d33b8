"""TensorBoardLogger: event files of torch's SummaryWriter, hyperparameters in hparams.yaml."""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulmen.checkpoint.places import is_remote, join
from fulmen.loggers import base
from fulmen.parameters import modes_kept
from fulmen.seed import isolate_rng
from fulmen.tree import move
from fulmen.warn import rank_zero_only, rank_zero_warn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SAVED_EVERY = 100
"""As many calls of `log_metrics` may wait for `save`."""


class TensorBoardLogger(base.FolderLogger):
    """Writes metrics as TensorBoard's events to `save_dir/name/version_N`.

        trainer = Trainer(logger=TensorBoardLogger("logs", name="digits"))

    Args:
        save_dir: the folder in which experiments are saved, here or in a store.
        name: the experiment; "" leaves its folder out.
        version: the run's number, or a text that is the name of its folder; by default the next free number.
        log_graph: write the model's graph, which needs `example_input_array` on the module.
        default_hp_metric: give hyperparameters that come without metrics the metric `hp_metric`, -1, so that
            TensorBoard shows them.
        prefix: put before the name of each metric.
        sub_dir: a folder below the version's for the events.
        kwargs: given to SummaryWriter.
    """

    NAME_HPARAMS_FILE = base.HPARAMS_FILE
    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self.hparams: dict[str, Any] = {}
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._sub_dir = None if sub_dir is None else os.fspath(sub_dir)
        self._kwargs = kwargs
        self._saved_hparams: dict[str, Any] | None = None
        self._unsaved: list[tuple[dict[str, Any], int | None]] = []
        self._failing = False
        self._graph_written = False
        self._folders = {"."}
        self._opened = False

    @property
    def sub_dir(self) -> str | None:
        """The folder below the version's, or None."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """The run's folder, `save_dir/name/version_N/sub_dir`; variables of the environment in it count."""
        folder = join(super().log_dir, self._sub_dir) if self._sub_dir else super().log_dir
        return folder if is_remote(folder) else os.path.expanduser(os.path.expandvars(folder))

    @property
    @base.rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """torch's SummaryWriter; its folder and first file are made when it is first asked for."""
        if self._experiment is None:
            self._open()
            from torch.utils.tensorboard import SummaryWriter

            folder = self.log_dir if is_remote(self.log_dir) else os.path.abspath(self.log_dir)  # also after a chdir
            self._experiment = SummaryWriter(log_dir=folder, **self._kwargs)
        return self._experiment

    @rank_zero_only
    def _open(self) -> None:
        """What may be wrong is told at once; the writer, which takes long to import, is made for the first row."""
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError("TensorBoardLogger needs TensorBoard: pip install tensorboard")
        if not self._failing:
            base.open_folder(self.log_dir)
            self._opened = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write scalars; the value of a name may be a dict of several, which share one chart."""
        row = base.prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR)
        self._unsaved.append((row, step))
        if not self._failing:
            try:
                _add(self.experiment, row, step)
            except OSError as error:
                self._give_up_writer(error)
        if len(self._unsaved) % SAVED_EVERY == 0:
            self.save()

    @rank_zero_only
    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | float | None = None,
        step: int | None = None,
    ) -> None:
        """Add hyperparameters, and the metrics by which TensorBoard compares runs that have others.

        Without metrics, hyperparameters that are known already are not written a second time.
        """
        new = {**self.hparams, **base.hyperparameters(params)}
        if metrics is None and new == self.hparams:
            return
        self.hparams = new
        if metrics is None:
            metrics = {"hp_metric": -1} if self._default_hp_metric else {}
        elif not isinstance(metrics, dict):
            metrics = {"hp_metric": metrics}
        if metrics:
            self.log_metrics(metrics, step or 0)
            self._add_hparams(metrics)

    def _add_hparams(self, metrics: dict[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        try:
            for summary in hparams(base.flat(self.hparams), metrics):
                self.experiment._get_file_writer().add_summary(summary)
        except OSError as error:
            self._give_up_writer(error)

    @rank_zero_only
    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Write the graph of `model` for `input_array`, or for its `example_input_array`, if the logger was told to."""
        if not self._log_graph or self._graph_written:
            return
        if input_array is None:
            input_array = getattr(model, "example_input_array", None)
        if input_array is None:
            rank_zero_warn("log_graph=True needs an example: set self.example_input_array in the module's __init__.")
            return
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with isolate_rng(), modes_kept(model), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.*deprecated", DeprecationWarning)  # TensorBoard's own doing
            self.experiment.add_graph(model.eval(), move(input_array, device))
            self._graph_written = True

    @rank_zero_only
    def save(self) -> None:
        """Write hparams.yaml and what waits; what a failing disk did not take is written again."""
        try:
            if self._failing:
                for row, step in self._unsaved:
                    _add(self.experiment, row, step)
            if self._experiment is not None:
                self._experiment.flush()
        except OSError as error:
            self._give_up_writer(error)
        else:
            self._unsaved, self._failing = [], False
        if self.hparams != self._saved_hparams and base.save_hparams(self.log_dir, self.hparams):
            self._saved_hparams = self.hparams

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits and close the file; a run that logged nothing leaves an empty one."""
        if not self._opened and not self._failing:
            return
        self.save()
        if self._failing:
            rank_zero_warn(f"{len(self._unsaved)} rows of metrics could not be written to {self.log_dir}.")
        else:
            self.experiment.close()

    def _give_up_writer(self, error: OSError) -> None:
        """A writer that failed once fails for ever: `save` tries with a new one."""
        base.warn_unwritten(self.log_dir, error)
        self._experiment, self._failing = None, True
        del self._unsaved[: -base.MAX_WAITING]

    def state_dict(self) -> dict[str, Any]:
        """Which run this is, and how long its files are."""
        if not self._opened or (self._failing and self._experiment is None):
            return {}
        self.save()
        run = {"name": self.name, "version": self.version, "graph_written": self._graph_written}
        writers = (self._experiment and self._experiment.all_writers) or ()
        self._folders.update(os.path.relpath(folder, self.log_dir) for folder in writers)
        sizes = {name: os.path.getsize(join(self.log_dir, name)) for name in self._files()}
        return {**run, "hparams": self.hparams, "folders": sorted(self._folders), "sizes": sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue that run's folder as it was at the checkpoint; events written later are cut off."""
        if self._experiment is not None:
            self._experiment.close()
        if not state_dict or not self.continues(state_dict):
            return
        self._experiment, self._unsaved, self._failing = None, [], False
        self.hparams = self._saved_hparams = state_dict["hparams"]
        self._graph_written, self._folders = state_dict["graph_written"], set(state_dict["folders"])
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self._cut(state_dict["sizes"])
        self._open()

    def _cut(self, sizes: dict[str, int]) -> None:
        for name in self._files():
            path = join(self.log_dir, name)
            if name in sizes:
                os.truncate(path, min(sizes[name], os.path.getsize(path)))
            else:
                os.unlink(path)

    def _files(self) -> list[str]:
        """The event files of this run, below its folder; other runs may have theirs there too."""
        if is_remote(self.log_dir):
            return []
        folders = [Path(self.log_dir, folder) for folder in sorted(self._folders)]
        return [
            os.path.relpath(path, self.log_dir) for folder in folders for path in folder.glob("events.out.tfevents.*")
        ]


def _add(writer: SummaryWriter, row: dict[str, Any], step: int | None) -> None:
    """Write the scalars of a row as one event, a third of the cost of one each."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore (made at run time)

    summary = Summary()
    for name, value in row.items():
        if isinstance(value, dict):
            writer.add_scalars(name, value, step)
            continue
        try:
            summary.value.add(tag=name, simple_value=float(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The metric {name!r} is {value!r}; TensorBoard takes numbers and dicts of them."
            ) from error
    writer._get_file_writer().add_summary(summary, step)
