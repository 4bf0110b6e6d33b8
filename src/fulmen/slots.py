"""What is kept of one logged value: the last one, and the epoch's running sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fulmen.values import check_value, is_metric, on_host, wide

if TYPE_CHECKING:
    from fulmen.logs import LogStore

FUNCTIONS = {
    torch.mean: "mean",
    torch.sum: "sum",
    torch.min: "min",
    torch.max: "max",
    min: "min",
    max: "max",
    sum: "sum",
}
LOADER_SUFFIX = "/dataloader_idx_"


class Slot:
    """What one call site logs under one name: the last value and, for on_epoch, what is kept of the epoch so far."""

    __slots__ = (
        "dtype", "epoch_name", "graph", "last", "logger", "name", "on_epoch", "on_step", "op",
        "per_batch", "prog_bar", "rule", "step_name", "store", "sync", "total", "weight",
    )  # fmt: skip

    def __init__(self, name: str, rule: tuple[Any, ...], store: LogStore) -> None:
        prog_bar, logger, on_step, on_epoch, op, sync, _, graph, _, _ = rule
        phase = store.phase
        assert phase is not None
        self.name, self.rule, self.store = name, rule, store
        self.prog_bar, self.logger = prog_bar, True if logger is None else logger
        self.on_step = phase.on_step if on_step is None else on_step
        self.on_epoch = phase.on_epoch if on_epoch is None else on_epoch
        self.op, self.sync, self.graph = operation(op), sync and store.strategy.world_size > 1, graph
        self.dtype = torch.float32
        self.last: Any = None
        self.total: Any = None
        self.weight: float = 0

        # Names in rows: several loaders' suffix comes after _step and _epoch.
        base, mark, suffix = name.partition(LOADER_SUFFIX)
        forked = self.on_step and self.on_epoch
        self.step_name = f"{base}_step{mark}{suffix}" if forked else name
        self.epoch_name = f"{base}_epoch{mark}{suffix}" if forked else name
        self.per_batch = phase.per_batch

    def typed(self, value: Any) -> Any:
        """A value as a tensor of the width in which it was logged."""
        if isinstance(value, Tensor):
            return value.to(self.dtype)
        check_value(self.epoch_name, value)  # what a metric computes may be anything
        return torch.tensor(value, dtype=self.dtype)

    def put(self, value: Any, size: int | None) -> None:
        """Take a value: a copy on its device, for users may change theirs in place. On the CPU a number is cheaper."""
        if isinstance(value, Tensor):
            value = on_host(value) if value.is_cpu and not self.graph else self.on_device(value)
        if self.on_step:
            self.last = value
        if self.on_epoch:
            self.keep(value, size)
        if self.sync and self.on_step:
            self.store.unsynced.append(self)

    def on_device(self, value: Tensor) -> Tensor:
        value = value if self.graph else value.detach()
        return value.reshape(()).clone()

    def keep(self, value: Any, size: int | None) -> None:
        """Add the value to the epoch's mean, weighted by the size of its batch."""
        if size is None:
            size = self.store.batch_size()
        if isinstance(value, Tensor) and isinstance(self.total, Tensor):
            self.total.add_(value, alpha=size)
        elif self.total is None:
            self.total = wide(value) * size
        else:
            self.total = self.total + wide(value) * size
        self.weight += size

    def epoch_value(self) -> Any:
        return None if self.total is None else self.total / self.weight

    def clear(self) -> None:
        self.last = self.total = None
        self.weight = 0

    def state(self, names: dict[int, str]) -> dict[str, Any]:
        kept = {"last": self.last, "total": self.total, "weight": self.weight, "double": self.dtype is torch.float64}
        return {**kept, "rule": list(spelled(self.rule)), "metric": None}

    def load(self, state: dict[str, Any], metric: Any) -> None:
        self.last, self.total, self.weight = state["last"], state["total"], state["weight"]
        self.dtype = torch.float64 if state["double"] else torch.float32


class FoldSlot(Slot):
    """reduce_fx "sum", "min" or "max"."""

    __slots__ = ()
    folds: ClassVar[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "sum": torch.add,
        "min": torch.minimum,
        "max": torch.maximum,
    }

    def keep(self, value: Any, size: int | None) -> None:
        new = wide(value)
        new = new if isinstance(new, Tensor) else torch.tensor(new, dtype=torch.float64)
        self.total = new if self.total is None else self.folds[self.op](self.total, new)

    def epoch_value(self) -> Any:
        return self.total


class Known:
    """Stands in a restored slot for a function that the file cannot hold, until self.log brings it again."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, values: Any) -> Any:
        return self.value


class CallableSlot(Slot):
    """reduce_fx as a function of the stacked values of the epoch."""

    __slots__ = ()

    def state(self, names: dict[int, str]) -> dict[str, Any]:
        rule = [*self.rule[:4], None, *self.rule[5:]]
        return {**super().state(names), "rule": rule, "value": self.epoch_value()}

    def keep(self, value: Any, size: int | None) -> None:
        if self.total is None:
            self.total = []
        self.total.append(self.typed(value))

    def epoch_value(self) -> Any:
        return None if self.total is None else self.op(torch.stack(self.total))


class MetricSlot(Slot):
    """A torchmetrics object: it accumulates by itself and is computed and reset at the end of the epoch."""

    __slots__ = ("metric",)

    def put(self, value: Any, size: int | None) -> None:
        self.metric = value
        if self.on_step:
            cached = value._forward_cache
            self.last = value.compute() if cached is None else cached

    def state(self, names: dict[int, str]) -> dict[str, Any]:
        return {**super().state(names), "metric": names.get(id(self.metric), "")}

    def load(self, state: dict[str, Any], metric: Any) -> None:
        super().load(state, metric)
        self.metric = metric

    def epoch_value(self) -> Any:
        return self.metric.compute() if self.on_epoch and self.metric.update_called else None

    def clear(self) -> None:
        self.last = None
        self.metric.reset()


def operation(reduce_fx: Any) -> Any:
    """The reduction's word, or the function itself where it is none of the known ones."""
    if isinstance(reduce_fx, str):
        return "mean" if reduce_fx.lower() == "avg" else reduce_fx.lower()
    return FUNCTIONS.get(reduce_fx, reduce_fx)


def spelled(rule: tuple[Any, ...]) -> tuple[Any, ...]:
    """The options of self.log with the reduction as a word or its code, where it has one."""
    op = operation(rule[4])
    return (*rule[:4], getattr(op, "__code__", op), *rule[5:])  # a lambda in a step is a new one each time


def slot_class(value: Any, reduce_fx: Any) -> type[Slot]:
    op = operation(reduce_fx)
    if is_metric(value):
        return MetricSlot
    if callable(op):
        return CallableSlot
    return Slot if op == "mean" else FoldSlot
