"""Which file `ckpt_path` means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fulmen import slurm
from fulmen.checkpoint import files, places
from fulmen.errors import CheckpointError, MisconfigurationException, MissingCheckpoint
from fulmen.warn import rank_zero_warn

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

INTERRUPTED = "interrupted.ckpt"
"""What a signal makes a run save, and its start if it shall go on: beside the callback's own files, gone at the end."""

_finished: dict[str, tuple[Any, ...]] = {}
"""The runs that this process has brought to their ends, and the limits that they had."""


def resolve(trainer: Trainer, ckpt_path: Any) -> Any:
    """The path that fit, validate, test or predict has to read; None for none."""
    fitting = trainer.state.fn == "fit"
    requeued = slurm.newest_checkpoint(trainer.default_root_dir, trainer.strategy) if fitting else None
    if requeued is not None and ckpt_path in (None, "hpc"):
        return requeued
    if ckpt_path is None:
        return newest(trainer) if fitting and trainer.options.resume == "auto" else None
    if ckpt_path == "hpc":
        raise MissingCheckpoint(
            f"ckpt_path='hpc', but {trainer.default_root_dir} has no hpc_ckpt_N.ckpt of a requeued job."
        )
    if ckpt_path == "best":
        return _best(trainer)
    if ckpt_path == "last":
        path = newest(trainer)
        if path is None:
            rank_zero_warn("ckpt_path='last', but there is no checkpoint yet (save_last=True keeps one): from scratch.")
        return path
    if not isinstance(ckpt_path, (str, os.PathLike)):
        raise CheckpointError(f"ckpt_path={ckpt_path!r} must be a path, a URL, 'best' or 'last'.")
    return ckpt_path


def is_of_same_run(trainer: Trainer, ckpt_path: Any, path: Any) -> bool:
    """Whether what was found belongs to this very program's run; else a file was named somehow."""
    requeued = slurm.newest_checkpoint(trainer.default_root_dir, trainer.strategy)
    found = trainer.options.resume == "auto" or path in (None, requeued)
    return ckpt_path in ("last", "hpc") or (ckpt_path is None and found)


def _best(trainer: Trainer) -> str:
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not best:
        raise MisconfigurationException(
            "ckpt_path='best', but no checkpoint was kept: configure a ModelCheckpoint (monitor=...) and fit first, or "
            "give the path of a file."
        )
    return best


def newest(trainer: Trainer) -> str | None:
    """The newest good checkpoint of this run, or of the last run that logged to the same place."""
    found = None
    if trainer.is_global_zero:
        fitting = trainer.state.fn == "fit"
        passes = [partial(_may_go_on, trainer, True), partial(_may_go_on, trainer, False)] if fitting else [None]
        found = next(filter(None, (_newest(trainer, wanted) for wanted in passes)), None)
    callbacks = _that_find(trainer)
    found, folders = trainer.strategy.broadcast((found, [callback.dirpath for callback in callbacks]))
    _place(callbacks, folders)
    return found


def _that_find(trainer: Trainer) -> list[Any]:
    return [callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "find_last")]


def _newest(trainer: Trainer, wanted: Any) -> str | None:
    callbacks = _that_find(trainer)
    given = [callback.dirpath for callback in callbacks]
    for folders in (given, *_earlier(trainer, given)):
        _place(callbacks, folders)  # where it is found, the run saves again
        found = [callback.find_last(wanted) for callback in callbacks]
        if any(found):
            found += [_by_default(trainer, wanted)] if None in folders else []
            return max(filter(None, found), key=files.reach)
    _place(callbacks, given)
    return _by_default(trainer, wanted)


def _by_default(trainer: Trainer, wanted: Any) -> str | None:
    folders = (folder if places.is_remote(folder) else os.path.realpath(folder) for folder in _folders(trainer))
    return next(filter(None, (files.newest_good(folder, wanted=wanted) for folder in folders)), None)


def _place(callbacks: list[Any], folders: list[str | None]) -> None:
    for callback, folder in zip(callbacks, folders, strict=True):
        callback.dirpath = folder


def _may_go_on(trainer: Trainer, numbered: bool, checkpoint: dict[str, Any]) -> bool:
    """Whether this fit may be the run that a checkpoint is of: not if the process has finished it with another trainer.

    With `numbered` only if both have the same number in the program.
    """
    run = str(checkpoint.get("fulmen", {}).get("run"))
    if "optimizer_states" not in checkpoint or (numbered and run.partition("-")[0] != _number()):
        return False
    own = (getattr(callback, "_run", None) for callback in trainer.checkpoint_callbacks)
    return _finished.get(run) != _limits(trainer) or run in own


def new_run() -> str:
    """A name for a run, with its number in the program: one with several fits in one folder tells them apart."""
    return f"{_number()}-{uuid4().hex}"


def _number() -> str:
    return str(len(_finished) + 1)


def _limits(trainer: Trainer) -> tuple[Any, ...]:
    return trainer.options.max_epochs, trainer.options.max_steps


def _earlier(trainer: Trainer, folders: list[str | None]) -> Iterator[list[str | None]]:
    """The same in earlier runs, if they lie in the folder of a logger's next run, for which the program has asked."""
    for logger in trainer.loggers:
        if getattr(logger, "_given_version", "") is None and vars(logger)["_version"] is not None:
            run = os.path.realpath(logger.version_dir)  # type: ignore[attr-defined]
            inside = [folder is not None and folder.startswith(run + os.sep) for folder in folders]
            for version in _versions(os.path.dirname(run)) if any(inside) else ():
                pairs = zip(folders, inside, strict=True)
                yield [f"{version}{folder[len(run) :]}" if folder and within else folder for folder, within in pairs]


def _folders(trainer: Trainer) -> list[str]:
    """Where ModelCheckpoint saves by default, the latest version first."""
    root, logger = trainer.default_root_dir, trainer.logger
    if logger is None:
        return [places.join(root, "checkpoints")]
    base = places.join(str(logger.save_dir or root), str(logger.name))
    counts = hasattr(logger, "_given_version")
    given = vars(logger)["_given_version"] if counts else logger.version
    if given is not None:
        return [places.join(base, given if isinstance(given, str) else f"version_{given}", "checkpoints")]
    return [places.join(version, "checkpoints") for version in _versions(base, counts)]


def _versions(base: str, numbered: bool = True) -> list[str]:
    """The folders of runs, the latest first: by their numbers, or by time where each has a name."""
    known = numbered or not places.is_remote(base)  # stores do not tell a folder's time
    names = [each for each in places.names(base) if known and re.fullmatch(r"version_\d+" if numbered else ".+", each)]
    time = {each: os.stat(os.path.join(base, each)).st_mtime for each in names if not numbered}
    names.sort(key=lambda each: int(each.rpartition("_")[2]) if numbered else time[each], reverse=True)
    return [places.join(base, each) for each in names]


def interrupted(trainer: Trainer) -> str | None:
    """Where a run that is asked to end saves: beside the files of the first callback that can find it there."""
    callbacks = sorted(trainer.checkpoint_callbacks, key=lambda callback: not hasattr(callback, "find_last"))
    folder = next(filter(None, (getattr(callback, "dirpath", None) for callback in callbacks)), None)
    return None if folder is None else f"{folder}/{INTERRUPTED}"


def begin(trainer: Trainer) -> None:
    """Mark the log folders of a new run until its beginning is saved: after a kill by then it takes them again."""
    for logger, mark in _marks(trainer):
        with suppress(OSError):  # the logger will say so
            logger.take_folder(mark)


def has_begun(trainer: Trainer) -> None:
    for logger, mark in _marks(trainer):
        with suppress(OSError):
            os.unlink(os.path.join(logger.version_dir, mark))


def _marks(trainer: Trainer) -> list[tuple[Any, str]]:
    loggers = trainer.loggers if trainer.is_global_zero else ()
    return [(one, f".begins-{number}") for number, one in enumerate(loggers) if hasattr(type(one), "take_folder")]


def save_beginning(trainer: Trainer) -> None:
    """Until the first save of its own a run has this to go on from, in the same folder."""
    path = None if trainer.fast_dev_run else interrupted(trainer)
    try:
        if path is not None:
            trainer.save_checkpoint(path)
    except OSError as error:
        rank_zero_warn(f"{error} Until its first checkpoint this run cannot go on if it is killed.")


def finish(trainer: Trainer) -> None:
    """The run is finished: nobody has to go on from where it was interrupted, nor has another fit of this process."""
    runs = [run for c in trainer.checkpoint_callbacks if (run := getattr(c, "_run", None)) is not None]
    _finished.update((run, _limits(trainer)) for run in runs)
    path = interrupted(trainer)
    if path is not None and trainer.is_global_zero and places.exists(path):
        with suppress(CheckpointError):  # a damaged one is nobody's
            if files.read(path, map_location="meta").get("fulmen", {}).get("run") not in {None, *runs}:
                return
        places.remove(path)
