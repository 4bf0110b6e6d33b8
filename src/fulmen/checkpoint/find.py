"""Which file `ckpt_path` means."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fulmen import slurm
from fulmen.checkpoint import files, places
from fulmen.errors import CheckpointError, MisconfigurationException, MissingCheckpoint
from fulmen.warn import rank_zero_warn

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

INTERRUPTED = "interrupted.ckpt"
"""What a signal makes a run save, and its start if it shall go on: beside the callback's own files, gone at the end."""


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
    fitting = trainer.state.fn == "fit"
    for callback in trainer.checkpoint_callbacks:
        if fitting and getattr(callback, "save_weights_only", False):
            continue  # nothing to go on from
        found = getattr(callback, "find_last", lambda trainer: None)(trainer)
        if found:
            return found
    found = None
    if trainer.is_global_zero:
        folders = (files.newest_good(folder) for folder in _folders(trainer))
        found = next((path for path in folders if path is not None), None)
    return trainer.strategy.broadcast(found)


def _folders(trainer: Trainer) -> list[str]:
    """Where ModelCheckpoint saves by default, the latest version first."""
    root, logger = trainer.default_root_dir, trainer.logger
    if logger is None:
        return [os.path.join(root, "checkpoints")]
    base = os.path.join(str(logger.save_dir or root), str(logger.name))
    if places.is_remote(base) or not os.path.isdir(base):
        return []
    versions = [entry for entry in os.listdir(base) if re.fullmatch(r"version_\d+", entry)]
    versions.sort(key=lambda entry: int(entry.rpartition("_")[2]), reverse=True)
    return [os.path.join(base, entry, "checkpoints") for entry in versions]


def interrupted(trainer: Trainer) -> str | None:
    """Where a run that is asked to end saves: beside the first callback's files."""
    folder = next(filter(None, (getattr(c, "dirpath", None) for c in trainer.checkpoint_callbacks)), None)
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


def forget_interrupted(trainer: Trainer) -> None:
    """The run is finished: nobody has to go on from where it was interrupted."""
    path = interrupted(trainer)
    if path is not None and trainer.is_global_zero and places.exists(path):
        places.remove(path)
