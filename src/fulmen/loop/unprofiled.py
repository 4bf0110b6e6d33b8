"""torch's calls without the ranges that they open for a profiler, while none runs.

Each of these costs a tenth of a small model's step, and nobody reads it. The work inside is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.autograd import profiler
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks as every_post_hook
from torch.optim.optimizer import _global_optimizer_pre_hooks as every_pre_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind


def step(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    """`optimizer.step(...)`; with torch's wrapper where a hook or profiler needs it, with what stands in its place."""
    outer = type(optimizer).step
    if getattr(outer, "hooked", None) is not True or profiler._is_profiler_enabled or every_pre_hook or every_post_hook:
        return optimizer.step(*args, **kwargs)
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return optimizer.step(*args, **kwargs)
    own = optimizer.__dict__.get("step")
    if own is not None:
        if getattr(own, "__wrapped__", None) is not outer or not hasattr(own, "_wrapped_by_lr_sched"):
            return optimizer.step(*args, **kwargs)
        optimizer._opt_called = True  # all that the wrapper of a scheduler does
    return outer.__wrapped__(optimizer, *args, **kwargs)


def zero_grad(optimizer: Any, *args: Any, **kwargs: Any) -> None:
    """`optimizer.zero_grad(...)`."""
    plain = type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in optimizer.__dict__
    if args or kwargs or not plain or profiler._is_profiler_enabled:
        optimizer.zero_grad(*args, **kwargs)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def batches(iterator: Any) -> Iterator[Any]:
    """`iterator`, or what it gives, if it is one of torch's over a dataset with `__getitem__`."""
    if getattr(type(iterator), "__next__", None) is not _BaseDataLoaderIter.__next__:
        return iterator
    return iterator if iterator._dataset_kind == _DatasetKind.Iterable else _batches(iterator)


def _batches(iterator: Any) -> Iterator[Any]:
    while True:
        try:
            if profiler._is_profiler_enabled:
                batch = next(iterator)
            else:
                batch = iterator._next_data()
                iterator._num_yielded += 1
        except StopIteration:
            return
        yield batch
