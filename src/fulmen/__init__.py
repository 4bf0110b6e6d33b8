"""Fulmen trains PyTorch models: `import fulmen as L`, a `LightningModule`, a `Trainer`.

Names are loaded when they are first used, so that importing the package costs little more than importing torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
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
    elif PathFinder.find_spec(f"fulmen.{name}", __path__) is not None:
        value = import_module(f"fulmen.{name}")
    elif name.startswith("_"):
        raise AttributeError(f"module 'fulmen' has no attribute {name!r}.")
    else:
        from fulmen.compat.finder import OldModule

        value = getattr(OldModule("fulmen"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "callbacks", "loggers"})


class _Elsewhere:
    """The last to be asked for a module below this package: it may be known under another path."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith("fulmen."):
            return None
        from fulmen.compat.finder import Elsewhere

        return Elsewhere().find_spec(fullname, path, target)


sys.meta_path.append(_Elsewhere())
