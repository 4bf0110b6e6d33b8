"""Modules that went through `torch.compile`, and back."""

from __future__ import annotations

from typing import Any

from fulmen.module import LightningModule


def from_compiled(model: Any) -> LightningModule:
    """The LightningModule inside what `torch.compile(module)` returned; its own steps then run the compiled forward."""
    from fulmen.verify import module_of

    return module_of(model, "compile")


def to_uncompiled(model: Any) -> LightningModule:
    """The LightningModule with its own forward again."""
    module = getattr(model, "_orig_mod", model)
    if not isinstance(module, LightningModule):
        raise TypeError(f"model is a {type(model).__name__}; it must be a LightningModule, compiled or not.")
    module.__dict__.pop("forward", None)
    return module
