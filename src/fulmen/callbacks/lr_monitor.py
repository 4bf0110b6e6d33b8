"""Log learning rates, and what else of an optimizer changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch

from fulmen.callbacks.base import Callback
from fulmen.errors import MisconfigurationException
from fulmen.warn import warn_once

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from fulmen.trainer import Trainer

INTERVALS = ("step", "epoch")


class LearningRateMonitor(Callback):
    """Writes each learning rate to the loggers, as `lr-Adam`, `lr-Adam-1` for the second Adam, `lr-Adam/pg1` for the
    first of several parameter groups (or `lr-Adam/<its name>`), or under the scheduler's own `name`.

        Trainer(callbacks=[LearningRateMonitor(logging_interval="step")])

    By default a rate is written as often as its scheduler moves it: at steps that are logged, or at each epoch's start.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, *INTERVALS):
            raise MisconfigurationException(f"logging_interval={logging_interval!r} must be 'step', 'epoch' or None.")
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.last_momentum_values: dict[str, float | None] = {}
        self.last_weight_decay_values: dict[str, float | None] = {}
        self._written_at: int | None = None  # so that the batches that accumulate for one step write once

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._written_at = None

    def state_dict(self) -> dict[str, Any]:
        return {"written_at": self._written_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._written_at = state_dict["written_at"]

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.loggers:
            raise MisconfigurationException(
                "LearningRateMonitor has no logger to write to: give the Trainer one, or remove the callback."
            )
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if self.log_momentum and any(_momentum(group) is None for group in groups):
            warn_once("LearningRateMonitor(log_momentum=True): an optimizer has no momentum; 0 is logged for it.")
        self.lrs, self.last_momentum_values, self.last_weight_decay_values = {}, {}, {}
        for name, _ in self._groups(trainer, INTERVALS):
            self.lrs[name] = []
            self.last_momentum_values[f"{name}-momentum"] = None
            self.last_weight_decay_values[f"{name}-weight_decay"] = None

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # the row of this batch's metrics, if it gets one, will be written under the same number
        stepped, every = trainer.progress.stepped, trainer.log_every_n_steps
        if every and (stepped + 1) % every == 0 and stepped != self._written_at and self.logging_interval != "epoch":
            self._written_at = stepped
            self._write(trainer, INTERVALS if self.logging_interval else ("step",))

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        loop = trainer.train_loop
        goes_on = loop is not None and loop.same_run and trainer.progress.batch  # within an epoch that has its row
        if self.logging_interval != "step" and not goes_on:
            self._write(trainer, INTERVALS if self.logging_interval else ("epoch",))

    def _write(self, trainer: Trainer, intervals: tuple[str, ...]) -> None:
        row = {}
        for name, group in self._groups(trainer, intervals):
            row[name] = lr = float(group["lr"])
            self.lrs.setdefault(name, []).append(lr)
            if self.log_momentum:
                key = f"{name}-momentum"
                row[key] = self.last_momentum_values[key] = float(_momentum(group) or 0)
            if self.log_weight_decay:
                key = f"{name}-weight_decay"
                row[key] = self.last_weight_decay_values[key] = float(group.get("weight_decay", 0))
        if row:
            for logger in trainer.loggers:
                logger.log_metrics(row, step=trainer.progress.stepped)
            trainer.publish({key: torch.tensor(value) for key, value in row.items()})

    def _groups(self, trainer: Trainer, intervals: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The parameter groups that are due, each with its key; unscheduled ones are always due."""
        for name, optimizer, interval in _named_optimizers(trainer):
            if interval is None or interval in intervals:
                yield from _named_groups(name, optimizer)


def _named_optimizers(trainer: Trainer) -> Iterator[tuple[str, Optimizer, str | None]]:
    """Name, optimizer and interval: the scheduled ones in their schedulers' order, then the others."""
    scheduled = [(config.scheduler.optimizer, config.interval, config.name) for config in trainer.lr_scheduler_configs]
    known = {id(optimizer) for optimizer, _, _ in scheduled}
    others = [(optimizer, None, None) for optimizer in trainer.optimizers if id(optimizer) not in known]
    taken: dict[str, int] = {}
    for optimizer, interval, own_name in scheduled + others:
        name = own_name or f"lr-{type(optimizer).__name__}"
        count = taken[name] = taken.get(name, -1) + 1
        yield f"{name}-{count}" if count else name, optimizer, interval


def _named_groups(name: str, optimizer: Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    groups = optimizer.param_groups
    if len(groups) == 1:
        yield name, groups[0]
        return
    names = [group.get("name", f"pg{number}") for number, group in enumerate(groups, start=1)]
    if len(set(names)) < len(names):
        raise MisconfigurationException(
            f"{name}: LearningRateMonitor needs a different name for each parameter group, got {names}."
        )
    for group_name, group in zip(names, groups, strict=True):
        yield f"{name}/{group_name}", group


def _momentum(group: dict[str, Any]) -> float | None:
    return group["betas"][0] if "betas" in group else group.get("momentum")
