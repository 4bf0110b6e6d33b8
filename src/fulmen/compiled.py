"""Modules that went through `torch.compile`, and back; the Trainer's argument `compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from fulmen.module import LightningModule
from fulmen.warn import rank_zero_warn


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


def install(module: LightningModule, options: dict[str, Any]) -> list[nn.Module]:
    """Have the calls that the steps make compiled, of the module itself or of the layers in it; returns these.

    Which of them that is shows when they are called. What cannot be compiled runs as it is written, with a warning;
    what is compiled already stays as it is.
    """
    if "forward" in module.__dict__:  # the module came out of torch.compile
        return []
    parts = [part for part in (module, *layers(module)) if part._compiled_call_impl is None]
    for part in parts:
        part._compiled_call_impl = FirstCall(part, options)
    return parts


def uninstall(parts: Iterable[nn.Module]) -> None:
    for part in parts:
        part._compiled_call_impl = None


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules right below that hold parameters and can be called; metrics keep counts, and are none of them."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from layers(child)
        elif next(child.parameters(), None) is not None and not type(child).__module__.startswith("torchmetrics."):
            yield child


def _call_of(part: nn.Module) -> Callable[..., Any]:
    """A function with code of its own, which is what the compiler looks at and counts by; it skips torch's own code."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return part._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_name=type(part).__name__)
    return call


class FirstCall:
    """Compiles a module when it is called, and watches until it has run with gradients."""

    def __init__(self, part: nn.Module, options: dict[str, Any]) -> None:
        self.part = part
        self.compiled = torch.compile(_call_of(part), **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        part = self.part
        if isinstance(part, LightningModule):
            for layer in layers(part):  # are compiled together with it
                if isinstance(layer._compiled_call_impl, FirstCall):
                    layer._compiled_call_impl = None
        try:
            output = self.compiled(*args, **kwargs)
        except Exception as error:
            problem = error
        else:
            if torch.is_grad_enabled():
                part._compiled_call_impl = self.compiled
            return output
        part._compiled_call_impl = None
        output = part(*args, **kwargs)  # an error of the module's own is raised here
        reason = " ".join(str(problem).split()[:40])
        rank_zero_warn(
            f"{type(part).__name__} runs uncompiled: torch.compile failed with {type(problem).__name__}: {reason}"
        )
        return output
