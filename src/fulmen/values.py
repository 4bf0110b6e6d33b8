"""Single values that are logged: what counts as one, and how several are read in one transfer."""

from __future__ import annotations

import sys
from numbers import Number
from typing import Any

import torch
from torch import Tensor

on_host = Tensor.item
"""A CPU tensor's number: nothing waits for it, and it takes a tenth of the time of a copy."""


def read(values: dict[str, Any]) -> dict[str, float]:
    """Values as Python numbers; tensors of one device come over in one transfer."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    found = dict(values)
    for device in {t.device for t in tensors.values()}:
        names = [n for n, t in tensors.items() if t.device == device]
        wide = torch.float32 if device.type == "mps" else torch.float64
        numbers = torch.stack([_single(n, tensors[n]).to(wide) for n in names]).tolist()
        found.update(zip(names, numbers, strict=True))
    return found


def as_tensor(value: Any) -> Tensor:
    """The form in which users read metrics: a tensor, float32 for Python numbers."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float32)
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def check_value(name: str, value: Any) -> None:
    """Raise unless `value` is a number, a tensor of one element or a torchmetrics object."""
    if isinstance(value, Tensor):
        _single(name, value)
    elif isinstance(value, dict):
        raise TypeError(
            f"self.log({name!r}, {{...}}): a nested dict cannot be logged; call self.log_dict with a flat one."
        )
    elif not is_metric(value) and not isinstance(value, Number):
        kind = "class" if isinstance(value, type) else type(value).__name__
        raise TypeError(
            f"self.log({name!r}, {value!r}): a {kind} cannot be logged, only a number, a tensor of one element or a "
            "torchmetrics object."
        )


def is_metric(value: Any) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def _single(name: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ValueError(
            f"self.log({name!r}, ...): a tensor of shape {tuple(value.shape)} is not a single value; reduce it "
            "first, for example with .mean()."
        )
    return value.detach().reshape(())


def wide(value: Any) -> Any:
    """Sums run in double precision, so that a long epoch's mean doesn't drift."""
    if isinstance(value, Tensor):
        return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
    return float(value)  # a Python number


def wide_tensor(value: Any, device: torch.device) -> Tensor:
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.as_tensor(0.0 if value is None else value, dtype=dtype, device=device).reshape(())
