"""Several optimizers under automatic optimization."""

from __future__ import annotations

from typing import Any

from fulmen.errors import MisconfigurationException


def step_for(kind: Any, module: Any, count: int, frequencies: list[int]) -> Any:
    """The step that trains several optimizers by itself, where training_step asks for optimizer_idx."""
    raise MisconfigurationException(
        f"configure_optimizers returned {count} optimizers, and automatic optimization steps one. Set "
        "self.automatic_optimization = False and step them in training_step (manual optimization)."
    )
