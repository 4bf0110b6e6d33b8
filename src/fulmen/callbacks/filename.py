"""Names of checkpoint files: templates such as "{epoch}-{val_loss:.2f}", folders, and whose file it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulmen.checkpoint import files, places
from fulmen.errors import CheckpointError, MisconfigurationException, nearest
from fulmen.loop.progress import EPOCH_ENDED
from fulmen.warn import warn_once

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

COUNTERS = ("epoch", "step")
"""What a file can be named after, or ranked by, without being logged."""

_FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")


def fields(template: str | None) -> list[str]:
    """The names of the metrics in `template`."""
    return [name for name, _ in _FIELD.findall(template or "")]


def fill(template: str, metrics: Mapping[str, Any], insert: str) -> str:
    """`template` with values (or 0) in its fields, and unless `insert` is empty each field's name before it."""

    def shown(field: re.Match[str]) -> str:
        value = metrics.get(field[1], 0)
        try:
            text = format(value, (field[2] or ":")[1:])
        except (ValueError, TypeError) as error:
            raise MisconfigurationException(
                f"filename={template!r}: {field[0]} cannot show {value!r}: {error}."
            ) from error
        return f"{field[1]}{insert}{text}" if insert else text

    return _FIELD.sub(shown, template)


def warn_of_unknown(template: str | None, metrics: Mapping[str, Any]) -> None:
    """Say so once if `template` names metrics that are not there."""
    unknown = [name for name in fields(template) if name not in metrics]
    if unknown:
        warn_once(
            f"ModelCheckpoint(filename={template!r}) names {', '.join(map(repr, unknown))}, which is not logged (yet); "
            f"0 stands there instead.{nearest(unknown[0], metrics)} Metrics available: {', '.join(map(repr, metrics))}."
        )


def default_folder(trainer: Trainer) -> str:
    """`checkpoints` in the folder of the first logger's run, or in the trainer's folder."""
    if not trainer.loggers:
        return places.join(trainer.default_root_dir, "checkpoints")
    logger = trainer.loggers[0]
    if logger.version is None:  # until its run begins
        getattr(logger, "experiment", None)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return places.join(logger.save_dir or trainer.default_root_dir, str(logger.name), version, "checkpoints")


def prepare(folder: str) -> None:
    """Make the folder, without the unfinished files of killed saves, or raise before any training is lost."""
    if reason := places.obstacle(folder):
        raise MisconfigurationException(
            f"ModelCheckpoint cannot save in the folder {folder!r}: {reason}. Pass another dirpath, or another "
            "default_root_dir to the Trainer."
        )
    files.remove_leftovers(folder)


def absolute(path: str | os.PathLike[str]) -> str:
    """The one name of a local path, links resolved; a remote path as it is."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"dirpath={path!r} must be a path.")
    return str(path) if places.is_remote(path) else os.path.realpath(os.path.expanduser(places.local(path)))


def is_inside(folder: str, path: str) -> bool:
    """Whether `path` lies in `folder`, whatever links and dots it has."""
    if places.is_remote(path):
        return path.startswith(f"{folder.rstrip('/')}/") and ".." not in path
    return Path(os.path.realpath(os.path.dirname(path))).is_relative_to(os.path.realpath(folder))


def is_overtaken(path: str, run: str | None, since: tuple[int, ...]) -> bool:
    """Whether `run` wrote this file at the moment `since`, where it was resumed, or later: it comes there anew."""
    try:
        checkpoint = files.read(path, map_location="meta")
    except CheckpointError:
        return False
    return checkpoint.get("fulmen", {}).get("run") == run and moment(checkpoint) >= since


def moment(checkpoint: dict[str, Any]) -> tuple[int, ...]:
    """How far the run was that a checkpoint is of: of two, the greater comes later."""
    ranks = checkpoint.get("fulmen", {}).get("ranks") or [{}]
    progress = ranks[0].get("loop", {}).get("progress", {})
    counts = (progress.get(name, 0) for name in ("batches", "validations"))
    return (checkpoint.get("global_step", 0), *counts, progress.get("point") == EPOCH_ENDED)
