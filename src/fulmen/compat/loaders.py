"""What old code asks of `trainer.train_dataloader` and its kin: the first of a list, `loaders`, `dataset.datasets`.

There, one loader stood in a list, and those of training in a `CombinedLoader` whatever their number.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch.utils.data import DataLoader

from fulmen.collection import apply_to_collection
from fulmen.combined import CombinedLoader
from fulmen.compat.hooks import mentions
from fulmen.warn import warn_once


def complete(trainer: Any) -> None:
    """Give torch's loader and Fulmen's combined one what the lists and wrappers of then had."""
    members = {
        DataLoader: {"__getitem__": _of_a_list, "loaders": property(_loaders)},
        CombinedLoader: {
            "loaders": property(lambda self: self.iterables), "dataset": property(_datasets),
            "__getitem__": lambda self, key: self.iterables[key],
        },
    }  # fmt: skip
    for kind, added in members.items():
        for name, member in added.items():
            setattr(kind, name, member)
    trainer.train_dataloader = _training(trainer.train_dataloader)


def _of_a_list(self: Any, index: Any) -> Any:
    warn_once("trainer.val_dataloaders[0] is trainer.val_dataloaders today, where there is one.")
    return [self][index]


def _loaders(self: Any) -> Any:
    warn_once("trainer.train_dataloader.loaders is trainer.train_dataloader today.")
    return self


def _datasets(self: CombinedLoader) -> SimpleNamespace:
    return SimpleNamespace(datasets=apply_to_collection(self.iterables, DataLoader, lambda loader: loader.dataset))


def _training(today: property) -> property:
    """The loader, whose data is its own `datasets` for a module that looks there."""

    def read(trainer: Any) -> Any:
        loader = today.__get__(trainer)
        dataset = getattr(loader, "dataset", None)
        if dataset is not None and not hasattr(dataset, "datasets") and mentions(trainer.lightning_module, "datasets"):
            dataset.datasets = dataset
        return loader

    return property(read, doc=today.__doc__)
