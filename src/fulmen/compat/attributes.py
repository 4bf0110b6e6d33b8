"""Old attributes, reached on a miss only."""

from __future__ import annotations

from typing import Any

from fulmen.errors import nearest


def trainer_attribute(trainer: Any, name: str) -> Any:
    raise AttributeError(f"Trainer has no attribute {name!r}.{nearest(name, dir(type(trainer)))}")


def module_attribute(module: Any, name: str) -> Any:
    raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")
