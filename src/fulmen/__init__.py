"""Fulmen trains PyTorch models: `import fulmen as L`, a `LightningModule`, a `Trainer`.

Names are loaded when they are first used, so that importing the package costs little more than importing torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulmen import callbacks as callbacks
    from fulmen import loggers as loggers
    from fulmen.callbacks.base import Callback
    from fulmen.datamodule import LightningDataModule
    from fulmen.module import LightningModule
    from fulmen.seed import seed_everything
    from fulmen.trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "Callback": "fulmen.callbacks.base",
    "LightningDataModule": "fulmen.datamodule",
    "LightningModule": "fulmen.module",
    "Trainer": "fulmen.trainer",
    "seed_everything": "fulmen.seed",
}

__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "__version__", "seed_everything"]


def __getattr__(name: str) -> Any:
    """A public name, or a module such as `L.callbacks`, on first use."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif not name.startswith("_") and find_spec(f"fulmen.{name}") is not None:
        value = import_module(f"fulmen.{name}")
    else:
        from fulmen.errors import nearest

        raise AttributeError(f"module 'fulmen' has no attribute {name!r}.{nearest(name, __dir__())}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "callbacks", "loggers"})
