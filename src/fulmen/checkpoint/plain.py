"""Plain data: what a file can hold that loads without running code."""

from __future__ import annotations

import dataclasses
import enum
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Mapping, MutableSequence
from datetime import date, datetime, timedelta
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from fulmen.warn import warn_once


def to_saveable(hparams: Mapping[str, Any] | Namespace) -> tuple[dict[str, Any], list[str]]:
    """`hparams` as data that loads with weights_only=True, and the names of those that have no such form."""
    kept: dict[str, Any] = {}
    omitted: list[str] = []
    items = vars(hparams) if isinstance(hparams, Namespace) else hparams
    for name in items:
        try:
            kept[str(name)] = _plain(items[name])
        except Exception:  # also what a container that is filled late raises when it is read
            omitted.append(str(name))
    if omitted:
        warn_once(
            f"Hyperparameters {omitted} are not plain data: checkpoints leave them out, and load_from_checkpoint must "
            f"be given them. To say so in the code: save_hyperparameters(ignore={omitted})."
        )
    return kept, omitted


_KEPT = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)
_KEPT += (date, datetime, timedelta)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _KEPT:
        return value
    if kind in (torch.Tensor, nn.Parameter):
        return value.detach()
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if (items := items_of(value)) is not None:
        return _mapping(value, {_plain(name): _plain(items[name]) for name in items})
    for like, made in (((set, frozenset), set), (tuple, tuple), ((MutableSequence, range), list)):
        if isinstance(value, like):
            return made(_plain(item) for item in value)
    if isinstance(value, PurePath):
        return str(value)
    if kind.__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "O") in "biufcMmSU":
        return value if value.ndim else value.tolist()
    base: Any = next((base for base in (bool, int, float, str, bytes) if isinstance(value, base)), None)
    if base is None:
        raise TypeError(f"{kind.__name__} is not plain data")
    return base(value)


def _mapping(value: Any, plain: dict[Any, Any]) -> dict[Any, Any]:
    """What had attributes has them again, whoever reads the file: torch's safe loader keeps those of an OrderedDict."""
    if plain and all(isinstance(name, str) and _is_attribute(value, name) for name in plain):
        made = OrderedDict(plain)
        vars(made).update(plain)
        return made
    return type(value)(plain) if type(value) in (OrderedDict, Counter) else plain


def _is_attribute(value: Any, name: str) -> bool:
    return hasattr(value, name) and not hasattr(OrderedDict, name)


def items_of(value: Any) -> Mapping[Any, Any] | None:
    """What has names in a Namespace, dataclass or mapping; None for anything else."""
    if isinstance(value, Namespace):
        return dict(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value if isinstance(value, Mapping) else None
