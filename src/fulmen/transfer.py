"""Batches on their way to a GPU, while it still computes on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def beside(to_device: Callable[[Any], Any], device: torch.device, loaders: Iterable[Any]) -> Callable[[Any], Any]:
    """`to_device`, with its copies on a stream of their own where they can run there: out of pinned memory to CUDA."""
    if device.type != "cuda" or not all(getattr(loader, "pin_memory", False) for loader in loaders):
        return to_device
    stream = torch.cuda.Stream(device)

    def move(batch: Any) -> Any:
        found: list[Tensor] = []
        if not _tensors(batch, found) or not all(tensor.is_cpu for tensor in found):
            return to_device(batch)
        with torch.cuda.stream(stream):
            moved = to_device(batch)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        found.clear()
        _tensors(moved, found)
        for tensor in found:
            tensor.record_stream(current)  # its memory is not used anew before the step is done with it
        return moved

    return move


def _tensors(batch: Any, found: list[Tensor]) -> bool:
    """Put the tensors of the batch into `found`; False if there may be others that do not show."""
    kind = type(batch)
    if kind is Tensor:
        found.append(batch)
        return True
    if kind is dict or kind is list or kind is tuple:
        return all(_tensors(part, found) for part in (batch.values() if kind is dict else batch))
    return kind in (str, int, float, bool, type(None))
