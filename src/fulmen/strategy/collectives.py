"""What ranks tell each other. Every rank of the group has to call the same function at the same place.

Without a process group, and in a group of one, each returns what it was given.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fulmen.errors import nearest
from fulmen.tree import map_tensors

T = TypeVar("T")

OPERATIONS = {"mean": "SUM", "avg": "SUM", "sum": "SUM", "min": "MIN", "max": "MAX"}


def active() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def world_size(group: Any = None) -> int:
    return dist.get_world_size(group) if active() else 1


def reduce(value: Any, op: Any = "mean", group: Any = None) -> Any:
    """Combine a tensor over all ranks into a new one; "mean", "sum", "min", "max" or a `torch.distributed.ReduceOp`.

    Does not wait for the device: reading the result does. What is not a tensor is returned as it is.
    """
    operation = _operation(op)
    size = world_size(group)
    if not isinstance(value, Tensor) or size == 1:
        return value
    mean = op in ("mean", "avg", dist.ReduceOp.AVG)
    whole = not (value.is_floating_point() or value.is_complex())
    value = value.detach().to(torch.get_default_dtype()) if mean and whole else value.detach().clone()
    value = value.contiguous()
    dist.all_reduce(value, op=operation, group=group)
    return value.div_(size) if mean else value


def _operation(op: Any) -> Any:
    if isinstance(op, (dist.ReduceOp, dist.ReduceOp.RedOpType)):
        return dist.ReduceOp.SUM if op == dist.ReduceOp.AVG else op
    if not isinstance(op, str) or op.lower() not in OPERATIONS:
        raise ValueError(f"reduce_fx or op={op!r} must be one of {', '.join(OPERATIONS)}.{nearest(op, OPERATIONS)}")
    return getattr(dist.ReduceOp, OPERATIONS[op.lower()])


def gather(data: Any, group: Any = None, sync_grads: bool = False) -> Any:
    """Stack each tensor in `data` over all ranks in a new first dimension; a number counts as a tensor.

    With `sync_grads` the result can be differentiated: each rank's part gets the sum of the gradients of all ranks.
    """
    if world_size(group) == 1:
        return data
    if isinstance(data, (int, float)):
        data = torch.tensor(data)
    _check_shapes(data, group)
    return map_tensors(lambda tensor: _stack(tensor, group, sync_grads), data)


def _stack(tensor: Tensor, group: Any, sync_grads: bool) -> Tensor:
    if sync_grads:
        return _Gather.apply(tensor, group)
    stacked = tensor.new_empty((world_size(group), *tensor.shape), requires_grad=False)
    dist.all_gather(list(stacked.unbind()), tensor.detach().contiguous(), group=group)
    return stacked


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _stack(tensor, group, sync_grads=False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        total = reduce(grad_outputs[0], "sum", ctx.group)
        return total[dist.get_rank(ctx.group)], None


def _check_shapes(data: Any, group: Any) -> None:
    """Stop on every rank where one would wait for ever, or read beyond its memory."""
    mine: list[str] = []

    def note(tensor: Tensor) -> Tensor:
        mine.append(f"{tuple(tensor.shape)} {tensor.dtype}")
        return tensor

    map_tensors(note, data)
    everyones = gather_object(mine, group)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            raise ValueError(
                f"all_gather needs tensors of the same shape and type on all ranks, but rank 0 has "
                f"{', '.join(everyones[0])} and rank {rank} has {', '.join(theirs)}. Pad them to one shape before."
            )


def gather_object(obj: T, group: Any = None) -> list[T]:
    """The objects of all ranks, in their order; each is pickled, its tensors in host memory."""
    found = [obj] * world_size(group)
    if len(found) > 1:
        obj = map_tensors(Tensor.cpu, obj)
        dist.all_gather_object(found, obj, group=group)
    return found


def broadcast(obj: T, src: int = 0, group: Any = None) -> T:
    """The object of rank `src`; it is pickled."""
    if world_size(group) == 1:
        return obj
    parcel = [obj]
    dist.broadcast_object_list(parcel, src, group=group)
    return parcel[0]


def barrier(group: Any = None) -> None:
    """Wait until every rank is here."""
    if world_size(group) > 1:
        dist.barrier(group)


def agree(decision: bool, all: bool = True, group: Any = None) -> bool:
    """Whether all ranks say yes, or with `all=False` any of them."""
    if world_size(group) == 1:
        return decision
    votes = torch.tensor(int(decision))
    dist.all_reduce(votes, op=dist.ReduceOp.MIN if all else dist.ReduceOp.MAX, group=group)
    return bool(votes)


def equalize(tensors: list[Tensor], src: int = 0) -> None:
    """Overwrite `tensors` with those of rank `src`."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src)
