"""Trainers made of old arguments."""

from __future__ import annotations

import warnings
from typing import Any

import fulmen as L

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}
SMALL = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}


def then(notice: str, **arguments: Any) -> L.Trainer:
    """A Trainer from old arguments; its notices must say `notice`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = L.Trainer(**arguments)
    texts = [str(warning.message) for warning in said]
    assert any(notice in text for text in texts), texts
    return trainer


def quiet(notice: str, **arguments: Any) -> L.Trainer:
    return then(notice, **{**QUIET, **SMALL, **arguments})


def has(trainer: L.Trainer, kind: type) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)
