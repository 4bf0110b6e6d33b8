"""Older signatures of hooks, adapted once, when the hook table is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def adapt(owner: object, name: str, hook: Callable[..., Any]) -> Callable[..., Any] | None:
    """The hook as a call with today's arguments, or None if no era wrote it that way."""
    return None
