"""When validation runs within training."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from fulmen.errors import MisconfigurationException
from fulmen.options import seconds

if TYPE_CHECKING:
    from fulmen.loop.train import TrainLoop


class Schedule:
    """val_check_interval and check_val_every_n_epoch, as the batch at which validation is due next."""

    def __init__(self, loop: TrainLoop) -> None:
        self.loop, self.trainer = loop, loop.trainer
        self.on = False  # whether this epoch validates at all
        self.at: int | float = math.inf  # the batch of this epoch after which validation is due
        self.every: int | float = math.inf  # training batches from one validation to the next
        self.interval_s: float | None = None  # the same, where a clock decides
        self.next_s = math.inf

    def plan(self) -> None:
        """Once the training data are known."""
        interval: Any
        interval, num_batches = self.trainer.val_check_interval, self.loop.num_batches
        self.interval_s = None if isinstance(interval, (int, float)) else seconds(interval, "val_check_interval")
        if self.interval_s is not None:
            self.next_s = time.monotonic() + self.interval_s
        elif isinstance(interval, int):
            self._check(interval, num_batches)
            self.every = interval
        elif num_batches == math.inf:
            if interval != 1.0:
                raise MisconfigurationException(
                    f"val_check_interval={interval} is a share of an epoch whose length is not known; give an int "
                    "(batches)."
                )
            self.every = math.inf
        else:
            self.every = num_batches if interval == 1.0 else max(1, int(num_batches * interval))

    def _check(self, interval: int, num_batches: int | float) -> None:
        within = self.trainer.check_val_every_n_epoch is not None
        if interval > num_batches and within and self.loop.validates:
            raise MisconfigurationException(
                f"val_check_interval={interval} is more than the {num_batches} batches of an epoch. Set it lower, or "
                "check_val_every_n_epoch=None to count batches over epochs."
            )

    def start_epoch(self) -> None:
        every_epoch, epoch = self.trainer.check_val_every_n_epoch, self.loop.progress.epoch
        self.on = self.loop.validates and (every_epoch is None or (epoch + 1) % every_epoch == 0)
        self.at = math.inf
        if self.on and self.interval_s is not None:
            self.at = 0  # the clock decides, looked at after each batch
        elif self.on:
            self.advance()

    @property
    def counts_on(self) -> bool:
        """Whether batches are counted over epochs."""
        return self.trainer.check_val_every_n_epoch is None and isinstance(self.trainer.val_check_interval, int)

    def advance(self) -> None:
        """Validation is done: when is the next?"""
        progress, every = self.loop.progress, self.every
        if self.interval_s is not None:
            self.next_s = time.monotonic() + self.interval_s
        elif every == math.inf:
            self.at = math.inf
        elif self.counts_on:
            self.at = progress.batch + (every - progress.batches % every)
        else:
            self.at = (progress.batch // every + 1) * every

    @property
    def due(self) -> bool:
        """Whether validation runs behind the batch that was just trained on."""
        loop = self.loop
        if not self.on:
            return False
        if self.interval_s is not None:
            return time.monotonic() >= self.next_s
        assert loop.fetch is not None
        if loop.progress.batch >= self.at or (self.trainer.should_stop and loop.may_stop()):
            return True
        unsized = loop.num_batches == math.inf and isinstance(self.trainer.val_check_interval, float)
        return loop.fetch.is_last and unsized

    @property
    def due_on_resume(self) -> bool:
        """Whether the checkpoint was taken behind a batch whose validation was still to come."""
        loop, progress = self.loop, self.loop.progress
        assert loop.fetch is not None
        if not self.on or self.interval_s is not None:
            return False
        if self.every == math.inf:
            return loop.fetch.is_last
        if self.trainer.should_stop and loop.may_stop():
            return True
        return (progress.batches if self.counts_on else progress.batch) % self.every == 0
