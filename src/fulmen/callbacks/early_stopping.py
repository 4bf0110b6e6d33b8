"""Stop training when a metric stops improving."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fulmen.callbacks.base import Callback
from fulmen.errors import MisconfigurationException, nearest
from fulmen.warn import log, warn_once

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class EarlyStoppingReason(Enum):
    """Why `EarlyStopping` ended a run."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(Callback):
    """Ends the run when `monitor` did not get better by more than `min_delta` in `patience` checks.

        Trainer(callbacks=[EarlyStopping("val_loss", patience=5)])

    A check follows every validation. Where exactly one validation belongs to each epoch, or there is none, it comes
    at the end of the epoch, so that training metrics can be monitored too; `check_on_train_epoch_end` overrides this.
    `stopping_threshold` is good enough to stop, `divergence_threshold` too bad to go on; with `check_finite` NaN and
    Inf stop the run. A missing `monitor` is an error, or a warning with `strict=False`. `patience` counts checks, so
    with `Trainer(check_val_every_n_epoch=2)` it counts every second epoch.
    """

    mode_dict: ClassVar[dict[str, Callable[..., Tensor]]] = {"min": torch.lt, "max": torch.gt}
    order_dict: ClassVar[dict[str, str]] = {"min": "<", "max": ">"}
    runs_late = True  # the metrics that the module logs in its own on_train_epoch_end come first

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor={monitor!r} must be the name of a logged metric, such as 'val_loss'.")
        if mode not in self.mode_dict:
            raise MisconfigurationException(f"mode={mode!r} must be 'min' or 'max'.{nearest(mode, self.mode_dict)}")
        for name, number in (("patience", patience), ("min_delta", min_delta)):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or (name == "patience" and number < 0):
                raise TypeError(f"{name}={number!r} must be a number{' of at least 0' * (name == 'patience')}.")
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta if mode == "max" else -min_delta  # what a new best must exceed, with its sign
        self.patience = patience
        self.verbose = verbose
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.log_rank_zero_only = log_rank_zero_only
        self._check_on_train_epoch_end = check_on_train_epoch_end

        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    @property
    def monitor_op(self) -> Callable[..., Tensor]:
        """`monitor_op(a, b)` says whether `a` is better than `b`."""
        return self.mode_dict[self.mode]

    def state_dict(self) -> dict[str, Any]:
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = torch.as_tensor(state_dict["best_score"])
        self.patience = state_dict["patience"]
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._checks_epochs(trainer):
            self._run_early_stopping_check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self._checks_epochs(trainer):
            self._run_early_stopping_check(trainer)

    def _checks_epochs(self, trainer: Trainer) -> bool:
        if self._check_on_train_epoch_end is not None:
            return self._check_on_train_epoch_end
        once_an_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
        return once_an_epoch or not trainer.enable_validation

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        here, metrics = trainer.callback_metrics.get(self.monitor), trainer.metrics_of_rank_zero
        if trainer.fast_dev_run or not self._is_there(metrics):
            return
        current, finite = metrics[self.monitor].squeeze(), here is None or bool(torch.isfinite(here).all())
        if self.check_finite and not trainer.strategy.reduce_boolean_decision(finite) and torch.isfinite(current):
            current = torch.full_like(current, torch.nan)  # that of another rank
        stop, message = self._evaluate_stopping_criteria(current)
        trainer.should_stop = trainer.should_stop or stop
        if stop:
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = message
        if message and self.verbose and (trainer.is_global_zero or not self.log_rank_zero_only):
            log.info(message if trainer.world_size == 1 else f"[rank {trainer.global_rank}] {message}")

    def _is_there(self, metrics: dict[str, Tensor]) -> bool:
        if self.monitor in metrics:
            return True
        message = (
            f"EarlyStopping(monitor={self.monitor!r}): no metric of that name was logged."
            f"{nearest(self.monitor, metrics)} Metrics available: {', '.join(map(repr, metrics)) or 'none'}."
        )
        if self.strict:
            raise RuntimeError(message)
        warn_once(message, RuntimeWarning)
        return False

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        """Whether to stop, and what to tell the user."""
        best, better = self.best_score.to(current.device), self.monitor_op  # in the metric's own precision
        shown, before = f"{self.monitor} = {current.item():.6g}", f"(best so far: {best.item():.6g})"
        if self.check_finite and not torch.isfinite(current):
            return self._stop("NON_FINITE_METRIC", f"{shown} is not finite {before}")
        if self.stopping_threshold is not None and better(current, self.stopping_threshold):
            return self._stop(
                "STOPPING_THRESHOLD", f"{shown} is better than stopping_threshold={self.stopping_threshold}"
            )
        if self.divergence_threshold is not None and better(-current, -self.divergence_threshold):
            text = f"{shown} is worse than divergence_threshold={self.divergence_threshold}"
            return self._stop("DIVERGENCE_THRESHOLD", text)
        if better(current - self.min_delta, best):
            self.best_score, self.wait_count = current.detach().clone().cpu(), 0
            return False, f"{shown} is a new best {before}."
        self.wait_count += 1
        if self.wait_count < self.patience:
            return False, None
        return self._stop("PATIENCE_EXHAUSTED", f"{shown} is check {self.wait_count} without a new best {before}")

    def _stop(self, reason: str, text: str) -> tuple[bool, str]:
        self.stopping_reason = EarlyStoppingReason[reason]
        return True, f"Training stops: {text}."
