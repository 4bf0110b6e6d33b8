"""Walk collections of things that are not only tensors: convert, detach, apply; `tree.py` is for batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fulmen.tree import map_tensors
from fulmen.tree import move as move_data_to_device

__all__ = [
    "apply_to_collection",
    "convert_tensors_to_scalars",
    "convert_to_tensors",
    "move_data_to_device",
    "recursive_detach",
]


def apply_to_collection(
    data: Any,
    dtype: type | tuple[type, ...],
    function: Callable[..., Any],
    *args: Any,
    wrong_dtype: type | tuple[type, ...] | None = None,
    include_none: bool = True,
    **kwargs: Any,
) -> Any:
    """Replace what is of `dtype` (and not of `wrong_dtype`) in nested dicts, sequences and dataclasses."""

    def walk(item: Any) -> Any:
        kind: Any = type(item)
        if isinstance(item, dtype) and not (wrong_dtype and isinstance(item, wrong_dtype)):
            return function(item, *args, **kwargs)
        if isinstance(item, Mapping):
            pairs = {key: new for key, value in item.items() if (new := walk(value)) is not None or include_none}
            return pairs if kind is dict else kind(pairs)
        if isinstance(item, (list, tuple)):
            items = [new for value in item if (new := walk(value)) is not None or include_none]
            return kind(*items) if hasattr(item, "_fields") else kind(items)
        if is_dataclass(item) and not isinstance(item, type):
            changed = {field.name: walk(getattr(item, field.name)) for field in fields(item) if field.init}
            return replace(item, **changed)
        return item

    return walk(data)


def convert_to_tensors(data: Any, device: torch.device | str) -> Any:
    """Numbers and arrays become tensors, and all tensors move to `device`."""
    kinds: dict[type, Any] = {bool: torch.uint8, int: torch.int, float: torch.float}
    for kind, dtype in kinds.items():
        data = apply_to_collection(
            data, kind, partial(torch.tensor, dtype=dtype), wrong_dtype=bool if kind is int else None
        )
    if numpy := sys.modules.get("numpy"):  # no arrays where nobody has imported it
        data = apply_to_collection(data, numpy.ndarray, torch.from_numpy)
    return move_data_to_device(data, device)


def convert_tensors_to_scalars(data: Any) -> Any:
    """Tensors of one element become Python numbers; larger ones are an error."""

    def scalar(value: Tensor) -> bool | int | float:
        if value.numel() != 1:
            raise ValueError(f"The metric `{value}` has {value.numel()} elements; only one can become a number.")
        return value.item()

    return map_tensors(scalar, data)


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """The same collection with its tensors detached, and on request on the CPU."""
    return map_tensors(lambda value: value.detach().cpu() if to_cpu else value.detach(), in_dict)
