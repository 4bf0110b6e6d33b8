"""What a run in processes of its own hands back to the program that started it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fulmen import tree
from fulmen.loop.progress import Progress

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


def hand_back(trainer: Trainer) -> dict[str, Any]:
    """Taken on rank zero, on the CPU: weights, what the callbacks know, values that were logged, counters."""
    outcome = {
        "weights": trainer.lightning_module.state_dict(),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],
        "logged": [trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics],
        "progress": trainer.progress.state_dict(),
        "should_stop": trainer.should_stop,
    }
    return tree.move(outcome, torch.device("cpu"))


def take_back(trainer: Trainer, outcome: dict[str, Any]) -> None:
    """Bring the program's own trainer to where the other one ended."""
    trainer.lightning_module.load_state_dict(outcome["weights"])
    for callback, state in zip(trainer.callbacks, outcome["callbacks"], strict=False):
        if state:
            if getattr(callback, "dirpath", "") is None:
                callback.dirpath = state.get("dirpath")  # type: ignore[attr-defined]
            callback.load_state_dict(state)
    trainer.logs.callback, trainer.logs.logged, trainer.logs.bar = outcome["logged"]
    trainer.progress = Progress(**outcome["progress"])
    trainer.should_stop = outcome["should_stop"]
