"""What a run in processes of its own starts with, and hands back to the program that started it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fulmen import tree
from fulmen.loop.progress import Progress

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


def arrive(trainer: Trainer) -> None:
    """In the new process: the module and callbacks came with tensors that all ranks share, and get their own."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    module.trainer = trainer
    if datamodule is not None:
        datamodule.trainer = trainer
    tree.map_tensors(_unshare, [vars(part) for part in (*module.modules(), *trainer.callbacks)])


def _unshare(tensor: Any) -> Any:
    if isinstance(tensor, torch.Tensor) and tensor.is_shared():
        tensor.data = tensor.data.clone()
    return tensor


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
