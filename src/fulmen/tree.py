"""Walk nested batches: move, detach, size.

A batch may be a tensor or any nesting of dictionaries, lists, tuples, named tuples and dataclasses. A part in which
nothing changes is passed on as the same object.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from fulmen.errors import MisconfigurationException


def map_tensors(function: Callable[[Any], Any], data: Any, method: str = "") -> Any:
    """Apply `function` to every tensor in `data`, and to every other object that has a method called `method`."""
    if isinstance(data, Tensor):
        return function(data)
    kind = type(data)
    if kind is tuple or kind is list:
        changed = [map_tensors(function, item, method) for item in data]
        return data if _same(changed, data) else kind(changed)
    if kind is str or kind is int or kind is float:
        return data
    if method and hasattr(kind, method):
        return function(data)
    if isinstance(data, (Mapping, list, tuple, deque)):
        parts = data.values() if isinstance(data, Mapping) else data
        changed = [map_tensors(function, item, method) for item in parts]
        return data if _same(changed, parts) else rebuild(data, changed)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return _map_fields(function, data, method)
    return data


def _same(new: list[Any], old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def rebuild(container: Any, values: list[Any]) -> Any:
    """A mapping, list, tuple or deque of the same kind as `container`, with `values` in the place of its own."""
    if isinstance(container, Mapping):
        items = dict(zip(container, values, strict=True))
        if type(container) is dict:
            return items
        if not isinstance(container, MutableMapping):
            return type(container)(items)  # type: ignore[call-arg]
        new = copy.copy(container)  # keeps what subclasses carry beside the items
        new.update(items)
        return new
    if hasattr(container, "_fields"):
        return type(container)(*values)
    if isinstance(container, tuple) or type(container) is list:
        return type(container)(values)
    new = copy.copy(container)
    new.clear()
    new.extend(values)
    return new


def _map_fields(function: Callable[[Any], Any], data: Any, method: str) -> Any:
    new = data
    for field in dataclasses.fields(data):
        old = getattr(data, field.name, None)
        value = map_tensors(function, old, method)
        if value is not old:
            new = copy.copy(data) if new is data else new
            object.__setattr__(new, field.name, value)  # frozen ones too: nobody else has seen this copy
    return new


def move(batch: Any, device: torch.device | str) -> Any:
    """Bring every tensor, and every object that has a method `to`, onto `device`.

    A copy to an accelerator does not wait for the device; with pinned memory it overlaps with computation.
    """
    device = torch.device(device) if isinstance(device, str) else device
    non_blocking = device.type not in ("cpu", "mps")

    kind = type(batch)
    if kind is tuple or kind is list or kind is dict:
        moved = []
        same = True
        for item in batch.values() if kind is dict else batch:  # one frame for the commonest batch, tensors in a row
            new = item.to(device, non_blocking=non_blocking) if isinstance(item, Tensor) else move(item, device)
            same = same and new is item
            moved.append(new)
        return batch if same else rebuild(batch, moved)

    def to_device(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=non_blocking)
        moved = leaf.to(device)
        return leaf if moved is None else moved  # some classes' own `to` moves in place and returns nothing

    return map_tensors(to_device, batch, method="to")


def detach(data: Any) -> Any:
    """The same data without the graph behind it."""
    return map_tensors(lambda leaf: leaf.detach(), data, method="detach")


def batch_size(batch: Any) -> int:
    """The first dimension of the first tensor in `batch`, 1 if it has none; a list of strings counts its strings."""
    first = batch[0] if (type(batch) is tuple or type(batch) is list) and batch else batch
    if not isinstance(first, Tensor):
        first = next(_sized(batch), None)
    if first is None:
        raise MisconfigurationException(
            f"The batch size cannot be read off a batch of type {type(batch).__name__!r} without tensors. "
            "Pass it: self.log(..., batch_size=...)."
        )
    if isinstance(first, Tensor):
        return first.shape[0] if first.ndim else 1
    return len(first)


def _sized(batch: Any) -> Iterator[Any]:
    """The tensors in `batch`, then its lists of strings."""
    texts = []
    stack = [batch]
    while stack:
        data = stack.pop()
        if isinstance(data, Tensor):
            yield data
        elif isinstance(data, Mapping):
            stack.extend(reversed(list(data.values())))
        elif isinstance(data, (list, tuple, deque)):
            if data and all(isinstance(item, str) for item in data):
                texts.append(data)
            else:
                stack.extend(reversed(data))
        elif dataclasses.is_dataclass(data) and not isinstance(data, type):
            stack.extend(getattr(data, field.name, None) for field in reversed(dataclasses.fields(data)))
    yield from texts
