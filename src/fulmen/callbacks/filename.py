"""Names of checkpoint files: templates such as "{epoch}-{val_loss:.2f}", and the folder they go to by default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fulmen.checkpoint.files import join
from fulmen.errors import MisconfigurationException, nearest
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
        return join(trainer.default_root_dir, "checkpoints")
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return join(logger.save_dir or trainer.default_root_dir, str(logger.name), version, "checkpoints")
