"""Logger, and what loggers share: folders and versions, hyperparameters as plain values, a disk that fails."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fulmen.checkpoint import places
from fulmen.checkpoint.places import exists, is_remote, join, local
from fulmen.errors import MisconfigurationException
from fulmen.warn import rank_zero_only, warn_once

MAX_WAITING = 10_000
"""As many rows wait in memory for a disk that fails; older ones are given up."""

HPARAMS_FILE = "hparams.yaml"


class DummyExperiment:
    """Takes every call and does nothing; the experiment of ranks other than zero."""

    def nop(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):  # copy and pickle ask for these
            raise AttributeError(name)
        return self.nop

    def __getitem__(self, _: Any) -> Any:
        return self

    __setitem__ = nop

    def __iter__(self) -> Iterator[Any]:
        return iter((self,))


def rank_zero_experiment(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make the property `experiment` that `fn` computes a `DummyExperiment` on ranks other than zero."""

    @wraps(fn)
    def experiment(self: Logger) -> Any:
        return fn(self) if rank_zero_only.rank == 0 else DummyExperiment()  # type: ignore[attr-defined]

    return experiment


class Logger(ABC):
    """Where metrics and hyperparameters go.

    A logger of your own has `name`, `version`, `log_metrics` and `log_hyperparams`; the rest does nothing by default.
    `save` is called behind each row, unless the class sets `paces_itself`.
    """

    paces_itself = False

    @property
    @abstractmethod
    def name(self) -> str | None:
        """The experiment's name."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """The run's number or name within the experiment."""

    @property
    def root_dir(self) -> str | None:
        """The folder of all versions, or None."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The folder of this version, or None."""
        return None

    @property
    def save_dir(self) -> str | None:
        """The folder in which experiments are saved, or None."""
        return None

    @property
    def group_separator(self) -> str:
        """What stands between a group and a metric's name."""
        return "/"

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write down `metrics`, which hold for `step`."""

    @abstractmethod
    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Write down the run's hyperparameters."""

    def _open(self) -> None:
        """A run begins: what cannot be written to is told here."""
        getattr(self, "experiment", None)

    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Write down the model's graph, where the logger can."""

    def save(self) -> None:
        """Bring everything logged so far to its place."""

    def finalize(self, status: str) -> None:
        """The run is over: `status` is "success", "failed" or what the trainer says; logging may begin again."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """`checkpoint_callback` has saved a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Where this run's record stands, as plain data for the checkpoint."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue that record where the checkpoint was made; call it before anything is logged."""


class DummyLogger(DummyExperiment, Logger):
    """Takes everything and keeps nothing; stands in for real loggers in a trial run (fast_dev_run)."""

    paces_itself = True

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> DummyExperiment:
        """Takes every call and does nothing."""
        return DummyExperiment()

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class FolderLogger(Logger):
    """A logger whose run is the folder `save_dir/name/version_N`, here or in a store."""

    paces_itself = True

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None, version: int | str | None, prefix: str
    ) -> None:
        self._save_dir = str(save_dir) if is_remote(save_dir) else os.path.expanduser(local(save_dir))
        self._name = name or ""
        self._given_version = self._version = version
        self._prefix = prefix
        self._experiment: Any = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int | str:
        """The number after the highest among the experiment's folders, unless one was given."""
        if self._version is None:
            found = [re.fullmatch(r"version_(\d+)", name) for name in places.names(self.root_dir)]
            self._version = max((int(match[1]) for match in found if match), default=-1) + 1
        return self._version

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The experiment's folder: `save_dir/name`."""
        return join(self._save_dir, self._name)

    @property
    def log_dir(self) -> str:
        """The run's folder: `save_dir/name/version_N`, or the version itself where it is a text."""
        return self.version_dir

    @property
    def version_dir(self) -> str:
        version = self.version
        return join(self.root_dir, version if isinstance(version, str) else f"version_{version}")

    def take_folder(self, mark: str) -> None:
        """Begin in the folder of a start that was killed before it had begun, or in a new one, and put `mark` there."""
        if is_remote(self.root_dir):
            return
        marked = sorted(Path(self.root_dir).glob(f"version_*/{mark}"))
        if self._version is None and marked:
            self._version = int(marked[-1].parent.name.rpartition("_")[2])
        if exists(join(self.version_dir, mark)):
            for path in Path(self.version_dir).rglob("events.out.tfevents.*"):
                path.unlink()
        os.makedirs(self.version_dir, exist_ok=True)
        Path(self.version_dir, mark).touch()

    def continues(self, state: Mapping[str, Any]) -> bool:
        """Whether `state` is of the run that this logger stands for; if so, its version is taken over."""
        if self._name != state["name"] or self._given_version not in (None, state["version"]):
            return False
        if self._version not in (None, state["version"]) and not is_remote(self.log_dir):
            with suppress(OSError):  # made a moment ago for a new run, and still empty
                os.rmdir(self.log_dir)
        self._version = state["version"]
        return exists(self.log_dir)

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay with this process."""
        return {**self.__dict__, "_experiment": None}


def prefixed(metrics: Mapping[str, Any], prefix: str, separator: str = "-") -> dict[str, Any]:
    """`metrics` with `prefix` before each name."""
    return {f"{prefix}{separator}{name}": value for name, value in metrics.items()} if prefix else dict(metrics)


def plain(params: Any) -> Any:
    """`params` as dicts, lists, numbers and texts: what any YAML reader and any logger takes."""
    if isinstance(params, Enum):
        return plain(params.value)
    for kind in (bool, int, float, str):  # NumPy's float64 is a float that YAML does not know
        if isinstance(params, kind):
            return kind(params)
    if params is None:
        return None
    if isinstance(params, (Mapping, Namespace)):
        items = params.items() if isinstance(params, Mapping) else vars(params).items()
        return {str(name): plain(value) for name, value in items}
    if isinstance(params, (list, tuple, set, frozenset)) or type(params).__name__ == "ListConfig":
        return [plain(value) for value in params]
    if getattr(params, "ndim", None) == 0:  # a number of torch or NumPy
        return params.item()
    if is_dataclass(params) and not isinstance(params, type):
        return {field.name: plain(getattr(params, field.name)) for field in fields(params)}
    return getattr(params, "__qualname__", None) or str(params)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def merge_dicts(
    dicts: Sequence[Mapping[str, Any]],
    agg_key_funcs: Mapping[str, Any] | None = None,
    default_func: Callable[[Sequence[float]], float] = mean,
) -> dict[str, Any]:
    """The keys of all; the values of a key become one by its function in `agg_key_funcs`, or the default one."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in dicts for key in one):
        values, function = [one[key] for one in dicts if key in one], (agg_key_funcs or {}).get(key)
        nested = isinstance(values[0], Mapping)
        merged[key] = merge_dicts(values, function, default_func) if nested else (function or default_func)(values)
    return merged


def hyperparameters(params: Any) -> dict[str, Any]:
    """What `log_hyperparams` was given, plain."""
    found = plain(params or {})
    if not isinstance(found, dict):
        raise TypeError(f"log_hyperparams({params!r}): it takes a dict or a Namespace.")
    return found


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Plain hyperparameters in one level, as `optimizer/lr`; lists become texts."""
    row: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            row.update({f"{name}/{below}": item for below, item in flat(value).items()})
        else:
            row[name] = value if isinstance(value, (bool, int, float)) else str(value)
    return row


# ---- folders and files, here or in a store


def open_folder(folder: str) -> None:
    """Make `folder`, and say at once if nothing can be written there."""
    if reason := places.obstacle(folder):
        raise MisconfigurationException(f"save_dir: {folder!r} cannot hold logs: {reason}. Choose another.")


def write(path: str, text: str) -> int:
    """Write a file, whole or not at all; returns its length in bytes."""
    content = text.encode()
    if is_remote(path):
        fs, target = places.store(path)
        fs.pipe_file(target, content)
    else:
        partial = f"{path}.partial"
        try:
            with open(partial, "wb") as file:
                file.write(content)
            os.replace(partial, path)
        except OSError:
            with suppress(OSError):
                os.unlink(partial)
            raise
    return len(content)


def save_hparams(folder: str, params: dict[str, Any]) -> bool:
    """Write plain hyperparameters to hparams.yaml; False if the disk fails."""
    path = join(folder, HPARAMS_FILE)
    try:
        write(path, as_yaml(params) if params else "{}\n")
    except OSError as error:
        warn_unwritten(path, error)
        return False
    return True


def as_yaml(params: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(params, sort_keys=False)


def warn_unwritten(path: str, error: OSError) -> None:
    """Say once that a log could not be written; a run does not end for that."""
    warn_once(f"The log {path} could not be written: {error.strerror or error}. The run goes on and tries again.")
