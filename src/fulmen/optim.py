"""configure_optimizers in all its forms, learning-rate schedulers, and the optimizer that users get to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from fulmen.errors import MisconfigurationException, nearest
from fulmen.hooks import method
from fulmen.warn import rank_zero_warn

if TYPE_CHECKING:
    from fulmen.module import LightningModule

FORMS = (
    "return an Optimizer, a list of them, ([optimizers], [schedulers]), or a dict such as "
    '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}'
)
CONFIG_KEYS = ("scheduler", "interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")
OUTER_KEYS = ("optimizer", "lr_scheduler", "monitor", "frequency")


@dataclass
class LRSchedulerConfig:
    """When and how one scheduler is stepped.

    By step that is behind an optimizer step, where the batch's number in its epoch, from 1, is a multiple of
    `frequency`.
    """

    scheduler: Any
    name: str | None = None
    interval: str = "epoch"
    frequency: int = 1
    reduce_on_plateau: bool = False
    monitor: str | None = None
    strict: bool = True


def build(module: LightningModule) -> tuple[list[Optimizer], list[LRSchedulerConfig], list[int]]:
    """Call configure_optimizers and bring what it returns into one form: optimizers, schedulers, frequencies."""
    returned = method(module, "configure_optimizers")()
    if returned is None:
        rank_zero_warn(f"{type(module).__name__}.configure_optimizers returned None: training runs with no optimizer.")
        return [], [], []
    optimizers, schedulers, frequencies = _forms(returned)
    for optimizer in optimizers:
        if not isinstance(optimizer, (Optimizer, LightningOptimizer)):
            raise MisconfigurationException(
                f"configure_optimizers returned {_words(optimizer)}, which is not an Optimizer; {FORMS}."
            )
    configs = [_config(scheduler, monitor) for scheduler, monitor in schedulers]
    if configs and not optimizers:
        raise MisconfigurationException(f"configure_optimizers returned schedulers but no optimizer; {FORMS}.")
    _check_ownership(module, optimizers)
    for config in configs:
        _check_config(config, optimizers, module.automatic_optimization)
    return [_bare(o) for o in optimizers], configs, frequencies


def _bare(optimizer: Any) -> Optimizer:
    return optimizer.optimizer if type(optimizer) is LightningOptimizer else optimizer


def _forms(returned: Any) -> tuple[list[Any], list[tuple[Any, str | None]], list[int]]:
    if isinstance(returned, Optimizer):
        return [returned], [], []
    if isinstance(returned, dict):
        return _dicts([returned])
    if isinstance(returned, (list, tuple)):
        items = list(returned)
        if len(items) == 2 and isinstance(items[0], (list, tuple)):
            schedulers = items[1] if isinstance(items[1], (list, tuple)) else [items[1]]
            return list(items[0]), [(s, None) for s in schedulers], []
        if items and all(isinstance(item, dict) for item in items):
            return _dicts(items)
        if all(isinstance(item, Optimizer) for item in items):
            return items, [], []
    raise MisconfigurationException(
        f"configure_optimizers returned {_words(returned)}, which is not a valid form; {FORMS} (lists, also for one)."
    )


def _words(value: Any) -> str:
    """A value in short: what kinds of things are in it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_words, value))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else type(value).__name__


def _dicts(items: list[dict[str, Any]]) -> tuple[list[Any], list[tuple[Any, str | None]], list[int]]:
    schedulers: list[tuple[Any, str | None]] = []
    for item in items:
        for key in item:
            if key not in OUTER_KEYS:
                hint = (
                    " It belongs inside the dict under 'lr_scheduler'."
                    if key in CONFIG_KEYS
                    else nearest(key, OUTER_KEYS)
                )
                raise MisconfigurationException(
                    f"configure_optimizers returned a dict with the unknown key {key!r}; expected keys are "
                    f"{OUTER_KEYS}.{hint}"
                )
        if "optimizer" not in item:
            raise MisconfigurationException(f"configure_optimizers returned a dict without 'optimizer'; {FORMS}.")
        scheduler = item.get("lr_scheduler")
        if scheduler is not None:
            schedulers.append((scheduler, item.get("monitor")))
    return (
        [item["optimizer"] for item in items],
        schedulers,
        [item["frequency"] for item in items if "frequency" in item],
    )


def _config(given: Any, monitor: str | None) -> LRSchedulerConfig:
    if not isinstance(given, dict):
        config = LRSchedulerConfig(given, monitor=monitor)
    else:
        for key in given:
            if key not in CONFIG_KEYS:
                raise MisconfigurationException(
                    f"The lr_scheduler dict of configure_optimizers has the unknown key {key!r}; "
                    f"expected keys are {CONFIG_KEYS}.{nearest(key, CONFIG_KEYS)}"
                )
        if "scheduler" not in given:
            raise MisconfigurationException("The lr_scheduler dict of configure_optimizers has no key 'scheduler'.")
        config = LRSchedulerConfig(**{"monitor": monitor, **given})
    plateau = isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    config.reduce_on_plateau = config.reduce_on_plateau or plateau
    return config


def _check_config(config: LRSchedulerConfig, optimizers: list[Any], automatic: bool) -> None:
    held = getattr(config.scheduler, "optimizer", None)
    if isinstance(held, Optimizer) and not any(_bare(optimizer) is _bare(held) for optimizer in optimizers):
        raise MisconfigurationException(
            f"configure_optimizers returned a {type(config.scheduler).__name__} of an optimizer that it did not "
            "return; return both."
        )
    if config.interval not in ("step", "epoch"):
        hint = nearest(config.interval, ("step", "epoch"))
        raise MisconfigurationException(f"lr_scheduler interval={config.interval!r} must be 'step' or 'epoch'.{hint}")
    if not isinstance(config.frequency, int) or config.frequency < 1:
        raise MisconfigurationException(f"lr_scheduler frequency={config.frequency!r} must be a positive int.")
    if not hasattr(config.scheduler, "step") or isinstance(config.scheduler, type):
        raise MisconfigurationException(
            f"configure_optimizers returned {_words(config.scheduler)} as a scheduler, which must be an object with a "
            f"method step(); {FORMS}."
        )
    if automatic and config.reduce_on_plateau and config.monitor is None:
        raise MisconfigurationException(
            "configure_optimizers returned ReduceLROnPlateau without a 'monitor': name the logged value that it "
            "watches, "
            '{"optimizer": ..., "lr_scheduler": ..., "monitor": "val_loss"}.'
        )


def _check_ownership(module: LightningModule, optimizers: list[Any]) -> None:
    own = {id(p) for p in module.parameters()}
    for optimizer in optimizers:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if own and held and not any(id(p) in own for p in held):
            rank_zero_warn(
                f"configure_optimizers: the parameters of {type(optimizer).__name__} are not part of "
                f"{type(module).__name__}, so the module is not trained; pass it self.parameters()."
            )


def repeats_closure(optimizer: Optimizer) -> bool:
    """Whether the optimizer may call its closure other than once, first: then it must be given the closure."""
    return not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, torch.optim.LBFGS)


TOGETHER = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Rprop")
"""Optimizers of torch whose foreach steps on a CPU give the very numbers of their steps tensor by tensor."""
MOST_TOGETHER, FEWEST_TOGETHER = 2**20, 8
"""Bytes that stay in a core's cache from one operation to the next, and tensors from which on it is quicker."""


def step_together(optimizers: Sequence[Optimizer]) -> list[str]:
    """Have small tensors on the CPU stepped by foreach operations, where nobody chose otherwise; names of optimizers.

    On GPUs torch does so by itself. Fused steps give other last bits: they are the user's choice, `fused=True`.
    """
    kinds = [getattr(torch.optim, name) for name in TOGETHER]
    groups = [(o, group) for o in optimizers if type(o) in kinds for group in o.param_groups if _is_light(group)]
    for _, group in groups:
        group["foreach"] = True
    return list(dict.fromkeys(type(optimizer).__name__ for optimizer, _ in groups))


def _is_light(group: dict[str, Any]) -> bool:
    tensors = group["params"]
    chosen = group.get("foreach", False) is not None or group.get("fused") or group.get("differentiable")
    if chosen or isinstance(group["lr"], torch.Tensor) or len(tensors) < FEWEST_TOGETHER:
        return False
    plain = all(
        type(t) is torch.nn.Parameter and t.is_cpu and t.dtype in (torch.float32, torch.float64) for t in tensors
    )
    return plain and sum(t.numel() * t.element_size() for t in tensors) <= MOST_TOGETHER


class LightningOptimizer:
    """The optimizer as steps and hooks see it: `step` counts, scales and calls hooks; all else is its own."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._run: Callable[..., Any] | None = None  # given by the running step
        self._no_sync: Callable[[], Any] | None = None
        self._module: LightningModule | None = None

    @property
    def optimizer(self) -> Optimizer:
        return self._optimizer

    @property
    def __class__(self) -> type:  # pyright: ignore - so that isinstance(optimizer, torch.optim.Adam) holds
        return type(self._optimizer)

    def __getattr__(self, name: str) -> Any:
        if "_optimizer" not in self.__dict__:  # while it is copied
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return LightningOptimizer, (self._optimizer,), self.__dict__  # pickle takes `__class__` at its word

    def __repr__(self) -> str:
        return repr(self._optimizer)

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """One optimizer step; with `closure`, which computes the loss and its gradients, called by the optimizer."""
        if closure is not None and not callable(closure):
            raise MisconfigurationException(f"optimizer.step(closure={closure!r}): the closure must be callable.")
        if self._run is None:
            return self._optimizer.step(closure, **kwargs) if closure else self._optimizer.step(**kwargs)
        return self._run(self, closure, **kwargs)

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Only this optimizer's parameters require gradients inside; `sync_grad=False` leaves ranks unsynchronised."""
        from contextlib import nullcontext

        assert self._module is not None, "toggle_model works while a trainer runs"
        with nullcontext() if sync_grad or self._no_sync is None else self._no_sync():
            self._module.toggle_optimizer(self)
            try:
                yield
            finally:
                self._module.untoggle_optimizer(self)


def parameters(optimizer: Any) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class Schedulers:
    """Steps the schedulers that are due; `values` reads the logged values that plateau schedulers watch."""

    def __init__(
        self,
        configs: Sequence[LRSchedulerConfig],
        call: Callable[..., Any] | None,
        values: Callable[[], dict[str, Any]],
    ) -> None:
        self.configs = list(configs)
        self.call = call  # the module's lr_scheduler_step, if it overrides it
        self.values = values
        self.by_step = [c for c in self.configs if c.interval == "step" and not c.reduce_on_plateau]
        self.by_epoch = [c for c in self.configs if c.interval == "epoch" and not c.reduce_on_plateau]
        self.plateaus = [c for c in self.configs if c.reduce_on_plateau]

    def after_step(self, count: int) -> None:
        """An optimizer step behind batch `count` of the epoch, counted from 1."""
        for config in self.by_step:
            if count % config.frequency == 0:
                self._step(config)

    def after_epoch(self, count: int) -> None:
        for config in self.by_epoch:
            if count % config.frequency == 0:
                self._step(config)

    def watch(self, interval: str, count: int) -> None:
        """Give the plateau schedulers of an interval the value that they monitor."""
        for config in self.plateaus:
            if config.interval == interval and count % config.frequency == 0:
                self._step(config)

    def _step(self, config: LRSchedulerConfig) -> None:
        metric = self._monitored(config) if config.reduce_on_plateau else None
        if config.reduce_on_plateau and metric is None:
            return
        if self.call is not None:
            self.call(config.scheduler, metric)
        elif config.reduce_on_plateau:
            config.scheduler.step(metric)
        else:
            config.scheduler.step()

    def _monitored(self, config: LRSchedulerConfig) -> Any:
        found = self.values()
        if config.monitor in found:
            return found[config.monitor]
        message = (
            f"The lr_scheduler monitors {config.monitor!r}, which was not logged; available are {sorted(found)}."
            f"{nearest(config.monitor, found)} Log it with self.log({config.monitor!r}, ...)."
        )
        if config.strict:
            raise MisconfigurationException(message)
        rank_zero_warn(message)
        return None
