"""Know how long training, validation and testing take, and stop in time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.base import Callback
from fulmen.errors import MisconfigurationException
from fulmen.options import seconds
from fulmen.states import RunningStage
from fulmen.types import LightningEnum
from fulmen.warn import rank_zero_info

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class Interval(LightningEnum):
    """When a `Timer` looks at the clock."""

    step = "step"
    epoch = "epoch"


class Timer(Callback):
    """Measures each stage, and ends the training once it took `duration`, over all restarts.

        timer = Timer(duration="00:12:00:00")  # or timedelta(hours=12), or {"hours": 12}
        trainer = Trainer(callbacks=[timer])
        trainer.fit(model)
        timer.time_elapsed("validate")  # seconds

    On several ranks the clock of rank zero decides, and is asked about once a second.
    """

    def __init__(
        self,
        duration: str | timedelta | dict[str, int] | None = None,
        interval: str = Interval.step,
        verbose: bool = True,
    ) -> None:
        chosen = Interval.try_from_str(interval)
        if chosen is None:
            raise MisconfigurationException(f"interval={interval!r} must be 'step' or 'epoch'.")
        self._duration = None if duration is None else seconds(duration, "duration")
        self._interval = chosen
        self._verbose = verbose
        self._start_time: dict[str, float] = {}
        self._end_time: dict[str, float] = {}
        self._offset = 0.0  # training time before the last restart
        self._batches = 0
        self._batches_to_wait = 1

    def start_time(self, stage: str = "train") -> float | None:
        """When the stage began, on the clock of `time.monotonic`."""
        return self._start_time.get(RunningStage.from_str(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """When the stage ended, on the clock of `time.monotonic`; None while it runs."""
        return self._end_time.get(RunningStage.from_str(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds that the stage took so far; for "train" those before a restart are included."""
        stage = RunningStage.from_str(stage)
        before = self._offset if stage == "train" else 0.0
        if stage not in self._start_time:
            return before
        return self._end_time.get(stage, time.monotonic()) - self._start_time[stage] + before

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds left of `duration`, below zero when it is over; None without a `duration`."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def state_dict(self) -> dict[str, Any]:
        return {"time_elapsed": {stage.value: self.time_elapsed(stage) for stage in RunningStage}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._offset = state_dict.get("time_elapsed", {}).get("train", 0.0)

    def on_fit_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._start_time.pop("train", None)
        self._check_time_remaining(trainer)  # a restored run may have no time left

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)
        self._batches, self._batches_to_wait = 0, 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A stage begins: any of them."""
        assert trainer.state.stage is not None
        self._start_time[trainer.state.stage] = time.monotonic()
        self._end_time.pop(trainer.state.stage, None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A stage ends."""
        assert trainer.state.stage is not None
        self._end_time[trainer.state.stage] = time.monotonic()

    on_test_start = on_predict_start = on_validation_start
    on_train_end = on_test_end = on_predict_end = on_validation_end

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._batches += 1
        if self._batches >= self._batches_to_wait and self._interval is Interval.step:
            self._check_time_remaining(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._interval is Interval.epoch:
            self._check_time_remaining(trainer)

    def _check_time_remaining(self, trainer: Trainer) -> None:
        if self._duration is None:
            return
        stop = self.time_elapsed() >= self._duration
        if trainer.world_size > 1:
            # all ranks count the same batches, so they meet here again after the number that rank zero names
            pace = self._batches / max(time.monotonic() - self._start_time.get("train", time.monotonic()), 1e-3)
            stop, self._batches_to_wait = trainer.strategy.broadcast((stop, self._batches + max(1, int(pace))))
        if stop and not trainer.should_stop and self._verbose:
            elapsed = timedelta(seconds=int(self.time_elapsed()))
            rank_zero_info(f"Training stops: it took {elapsed}, the limit is {timedelta(seconds=self._duration)}.")
        trainer.should_stop = trainer.should_stop or stop
