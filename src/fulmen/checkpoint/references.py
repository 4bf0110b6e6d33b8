"""What among the hyperparameters is no plain data, but sure to be had again: what torch and torchmetrics have by name,
and the kinds that can be packed."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from importlib import import_module
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import nn

from fulmen.checkpoint.packing import packed, unpack

PLACES = ("torch.nn", "torch.nn.functional", "torch.optim", "torch.optim.lr_scheduler", "torch")
METRICS = ("torchmetrics.classification", "torchmetrics.regression", "torchmetrics.aggregation")
_HOLDERS = (nn.Sequential, nn.ModuleList)


def describe(value: Any) -> dict[str, Any] | None:
    """How to have `value` again, as plain data; None where that is not sure."""
    if isinstance(value, nn.Module):
        try:
            with torch.device("meta"):  # made again to compare, without memory or random numbers
                made = _described(value)
                is_same = made is not None and _is_alike(value, _made(made))
        except Exception:  # arguments that cannot be told from the attributes
            return None
        return {"make": made, "weights": value.state_dict()} if is_same else None
    if callable(value):
        name = _name(value)
        return None if name is None else {"name": name}
    made = packed(value)
    return None if made is None else {"value": made}


def obtain(description: dict[str, Any], file: str) -> Any:
    """What `describe` described."""
    if "value" in description:
        return unpack(description["value"], False, file)
    if "name" in description:
        return _found(description["name"])
    module = _made(description["make"])
    module.load_state_dict(description["weights"])
    return module


def _name(value: Any) -> str | None:
    """Where a class or function is found."""
    name = getattr(value, "__name__", "")
    places = PLACES + (METRICS if "torchmetrics" in sys.modules else ())
    return next((f"{place}.{name}" for place in places if _find(f"{place}.{name}") is value), None)


def _find(dotted: str) -> Any:
    """A class or function that makes or computes something; None for all else, whatever a file names."""
    place, _, name = str(dotted).rpartition(".")
    if place in METRICS:
        with suppress(ImportError):
            import_module(place)
    value = getattr(sys.modules.get(place), name, None) if place in PLACES + METRICS else None
    if place == "torch" or isinstance(value, BuiltinFunctionType):
        return value if isinstance(value, BuiltinFunctionType) else None
    own = str(getattr(value, "__module__", "")).startswith(("torch.nn.", "torch.optim.", *METRICS))
    return value if own and callable(value) else None


def _found(dotted: str) -> Any:
    if (value := _find(dotted)) is None:
        raise LookupError(f"there is no {dotted!r} here")
    return value


def _described(module: nn.Module) -> dict[str, Any] | None:
    """Class, arguments and training mode; such modules keep the arguments as attributes."""
    kind = type(module)
    found: dict[str, Any] = {"name": _name(kind), "training": module.training}
    if found["name"] is None or module._forward_hooks or module._forward_pre_hooks:
        return None
    if kind in _HOLDERS:
        children = {name: _described(child) for name, child in module.named_children()}
        return None if None in children.values() else {**found, "children": children}
    arguments = {}
    for name in inspect.signature(kind).parameters:
        if hasattr(module, name):
            value = getattr(module, name)
            arguments[name] = value is not None if name == "bias" else value
    return {**found, "arguments": arguments}


def _made(description: dict[str, Any]) -> nn.Module:
    kind = _found(description["name"])
    if not issubclass(kind, nn.Module):
        raise LookupError(f"{description['name']!r} is no module")
    module: nn.Module = kind(**description.get("arguments", {}))
    module.training = bool(description["training"])
    for name, child in description.get("children", {}).items():
        module.add_module(name, _made(child))
    return module


def _is_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether the two differ in nothing but the numbers in them."""
    shapes = [{name: (t.shape, t.dtype) for name, t in module.state_dict().items()} for module in (one, other)]
    settings = [
        [(name, value) for part in module.modules() for name, value in vars(part).items()
         if not name.startswith("_") and not isinstance(value, torch.Tensor) and not hasattr(value, "__wrapped__")]
        for module in (one, other)
    ]  # fmt: skip
    return shapes[0] == shapes[1] and settings[0] == settings[1]
