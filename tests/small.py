"""Small modules, data and runs for the tests of the core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import fulmen as L
from fulmen.loggers.base import Logger

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": 1,
}


def make_trainer(**options: Any) -> L.Trainer:
    """A trainer on the CPU without anything that is not asked for."""
    return L.Trainer(**{**QUIET, **options})


class Numbers(Dataset[Tensor]):
    """Sample i is the vector [i, i]."""

    def __init__(self, length: int = 4, first: int = 0) -> None:
        self.length, self.first = length, first

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((2,), float(index + self.first))


class Stream(IterableDataset[Tensor]):
    """The same without a length."""

    def __init__(self, length: int = 4) -> None:
        self.length = length

    def __iter__(self) -> Any:
        return (torch.full((2,), float(index)) for index in range(self.length))


def numbers(length: int = 4, batch_size: int = 1, **options: Any) -> DataLoader[Tensor]:
    return DataLoader(Numbers(length), batch_size=batch_size, **options)


class Net(L.LightningModule):
    """One linear layer that starts at weights of one: the output for sample i is 2 i."""

    def __init__(self, lr: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.lr = lr
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Validated(Net):
    """The same with validation, test and prediction."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).mean()

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).mean()

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch)


class Rows(Logger):
    """Keeps what it is given, in the order in which it comes."""

    name = "rows"
    version = 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.hparams: list[dict[str, Any]] = []
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hparams.append(dict(params))

    def finalize(self, status: str) -> None:
        self.ended.append(status)
