"""NaN and infinity: noticed before they reach the weights or a checkpoint, with the name of what went bad first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fulmen.errors import NonFiniteError
from fulmen.values import on_host


def bad_gradient(module: nn.Module) -> str | None:
    """Name of the first parameter whose gradient is not finite."""
    return _first((name, p.grad) for name, p in module.named_parameters() if p.grad is not None)


def bad_weight(module: nn.Module) -> str | None:
    """Name of the first parameter or buffer that is not finite."""
    everything = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.numel()]
    if not everything or _all_finite(everything):
        return None
    return _first((*module.named_parameters(), *module.named_buffers()))


def _all_finite(tensors: list[Tensor]) -> bool:
    """Read in one go: a sum of absolute values that are not all finite is not finite either."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    norms = [torch.stack(torch._foreach_norm(group, math.inf)).float().sum() for group in groups.values()]
    return all(math.isfinite(on_host(norm)) for norm in norms)


def _first(tensors: Any) -> str | None:
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def check_weights(module: nn.Module, doing: str) -> None:
    """Before a checkpoint is written: raise if the weights are not finite any more."""
    name = bad_weight(module)
    if name is not None:
        raise NonFiniteError(
            f"{name} holds NaN or infinite values, so {doing} was stopped and older checkpoints are untouched. Look "
            "at the last batches and the learning rate; Trainer(detect_anomaly=True) finds the operation."
        )
