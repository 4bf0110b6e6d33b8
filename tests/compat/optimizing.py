"""A module with two optimizers, and runs of it."""

from __future__ import annotations

import torch
from small import make_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L


class Two(L.LightningModule):
    """Two layers of one weight each, with an optimizer for each; notes who had a turn."""

    frequencies: tuple[int, ...] = ()

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)
        self.turns = []

    def training_step(self, batch, batch_idx, optimizer_idx):
        self.turns.append((batch_idx, optimizer_idx, self.first.weight.requires_grad, self.second.weight.requires_grad))
        loss = (self.first(batch) * self.second(batch)).mean()
        return {"loss": loss, "log": {f"loss_{optimizer_idx}": loss}}

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(layer.parameters(), lr=0.125) for layer in (self.first, self.second)]
        if not self.frequencies:
            return optimizers, []
        return [{"optimizer": o, "frequency": f} for o, f in zip(optimizers, self.frequencies, strict=True)]


def fit(module, batches=2, **options):
    trainer = make_trainer(**options)
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(batches, 2)), collate_fn=lambda rows: rows[0][0][None]))
    return trainer
