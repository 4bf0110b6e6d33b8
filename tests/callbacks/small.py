"""Short runs for the tests of callbacks."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.demos import BoringModel

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": 5,
}


class Scored(BoringModel):
    """Logs one of `scores` as "score" in each validation, or in each epoch's training with `train=True`."""

    def __init__(self, scores: list[float], train: bool = False) -> None:
        super().__init__()
        self.scores, self.train_scores = iter(scores), train

    def on_validation_epoch_end(self) -> None:
        if not self.train_scores and not self.trainer.sanity_checking:
            self.log("score", next(self.scores))

    def on_train_epoch_end(self) -> None:
        if self.train_scores:
            self.log("score", next(self.scores))

    def loader(self) -> Any:
        return DataLoader(torch.randn(4, 32))

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def fit(model: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """Fit `model` on the CPU without anything that is not asked for."""
    trainer = L.Trainer(callbacks=list(callbacks), **{**QUIET, **options})
    trainer.fit(model)
    return trainer
