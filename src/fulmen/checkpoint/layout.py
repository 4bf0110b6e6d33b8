"""The part of a checkpoint's layout that is there for other readers of the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

VERSION_KEY = "pytorch-lightning_version"
VERSION = "2.6.6"
"""The version of the layout that this file follows."""


def loops(trainer: Trainer) -> dict[str, Any]:
    """Where the loops stand, in the layout's own words."""
    progress = trainer.progress
    return {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": progress.epoch}}}}
