"""Loggers, each loaded when it is first named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulmen.loggers.base import DummyLogger, Logger
    from fulmen.loggers.csv import CSVLogger
    from fulmen.loggers.tensorboard import TensorBoardLogger
    from fulmen.loggers.wandb import WandbLogger

_HOMES = {
    "CSVLogger": "csv",
    "DummyLogger": "base",
    "Logger": "base",
    "TensorBoardLogger": "tensorboard",
    "WandbLogger": "wandb",
}

__all__ = ["CSVLogger", "DummyLogger", "Logger", "TensorBoardLogger", "WandbLogger"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        from fulmen.errors import nearest

        raise AttributeError(f"module {__name__!r} has no name {name!r}.{nearest(name, __all__)}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
