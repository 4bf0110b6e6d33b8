"""What all progress bars share: what there is to show, and how often it is worth showing."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.base import Callback

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer

SHARE = 50  # a redraw that took 1 ms is followed by a pause of 50 ms ...
LONGEST_PAUSE_S = 1.0
SHARE_AT_ENDS = 20  # ... of 20 ms only where a stage begins or ends, which is worth more

KINDS = {"sanity_check": "sanity_val", "validate": "val", "test": "test", "predict": "predict"}


class ProgressBar(Callback):
    """Base of the bars. Override `get_metrics` to choose what stands beside a bar.

        class MyBar(TQDMProgressBar):
            def get_metrics(self, trainer, pl_module):
                return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}

    The hooks that come with each batch look at the clock and return: a bar is drawn ten times a second at most, and
    where a stage begins or ends. A bar of another kind overrides `begin_stage`, `draw_stage` and `end_stage`.
    """

    sanity_check_description: str = "Sanity Checking"
    train_description: str = "Training"
    validation_description: str = "Validation"
    test_description: str = "Testing"
    predict_description: str = "Predicting"

    runs_late = True  # at the end of an epoch, all its metrics are there
    pause_s = 0.1
    leave = False
    refresh_rate: int = 1
    every_n_batches = 1  # more: not the clock decides, but the number of batches

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._enabled = True
        self._current_eval_dataloader_idx: int | None = None
        self._due = self._due_at_ends = 0.0
        self._seen = self._eval_seen = 0
        self._began: dict[str, float] = {}  # the stages that are open, outermost first

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_trainer": None, "_began": {}}

    @property
    def trainer(self) -> Trainer:
        if self._trainer is None:
            raise TypeError(f"{type(self).__name__}.trainer is known only while a trainer runs.")
        return self._trainer

    @property
    def total_train_batches(self) -> int | float:
        """Batches of an epoch; inf for data without a length, 0 before a run."""
        return 0 if self._trainer is None else self._trainer.num_training_batches

    @property
    def total_val_batches(self) -> int | float:
        """Validation batches of all loaders in this epoch."""
        every = self.trainer.check_val_every_n_epoch or 1
        return 0 if (self.trainer.current_epoch + 1) % every else sum(self.trainer.num_val_batches)

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        return self._total("sanity_check" if self.trainer.sanity_checking else "validate")

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        return self._total("test")

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        return self._total("predict")

    def _totals(self, stage: str) -> list[int | float]:
        return getattr(self.trainer, f"num_{KINDS[stage]}_batches")

    def _total(self, stage: str) -> int | float:
        totals = self._totals(stage)
        return totals[self._current_eval_dataloader_idx or 0] if totals else 0

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether the last call named another loader."""
        before, self._current_eval_dataloader_idx = self._current_eval_dataloader_idx, dataloader_idx
        return before != dataloader_idx

    def reset_dataloader_idx_tracker(self) -> None:
        self._current_eval_dataloader_idx = None

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands beside the bar: what was logged with `prog_bar=True`, and the logger's version as `v_num`."""
        return {**get_standard_metrics(trainer), **trainer.progress_bar_metrics}

    @property
    def is_enabled(self) -> bool:
        return self._enabled

    @property
    def is_disabled(self) -> bool:
        return not self._enabled

    def disable(self) -> None:
        """Show nothing; ranks other than zero call it."""
        self._enabled = False

    def enable(self) -> None:
        if not isinstance(self.refresh_rate, (int, float)):
            raise TypeError(f"refresh_rate={self.refresh_rate!r} must be a number; 0 shows nothing.")
        self._enabled = self.refresh_rate > 0

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without breaking the bar."""
        print(*args, **kwargs)

    # ---- drawing

    def begin_stage(self, stage: str, text: str, total: float) -> None:
        """`total` batches (inf if unknown), described by `text`, begin.

        A stage is "sanity_check", "train", "validate" (within "train" or alone), "test" or "predict". "train" begins
        again with each epoch, an evaluation with each loader.
        """

    def draw_stage(self, stage: str, seen: int, metrics: dict[str, Any]) -> None:
        """Draw that `seen` batches are done."""

    def end_stage(self, stage: str) -> None:
        """All epochs or loaders are done: what stays on the screen is not touched again."""

    def redraw(self) -> None:
        """Draw the innermost stage that is open, and settle when the next time is."""
        began = perf_counter()
        stage = next(reversed(self._began))
        in_training = stage == "train"
        metrics = self.get_metrics(self.trainer, self.trainer.lightning_module) if in_training else {}
        self.draw_stage(stage, self._seen if in_training else self._eval_seen, metrics)
        now = perf_counter()
        cost = now - began
        pause = 0.0 if self.every_n_batches > 1 else max(self.pause_s, min(SHARE * cost, LONGEST_PAUSE_S))
        self._due, self._due_at_ends = now + pause, now + SHARE_AT_ENDS * cost

    def _redraw_if_due(self, due: float) -> None:
        if self._began and self._enabled and perf_counter() >= due:
            self.redraw()

    def _begin(self, stage: str, text: str, total: int | float) -> None:
        if self._enabled:
            if stage not in self._began:
                self._redraw_if_due(self._due_at_ends)  # the stage around it, as it will stand there meanwhile
            self._began[stage] = perf_counter()
            self.begin_stage(stage, text, total)
            self._redraw_if_due(self._due_at_ends)

    def _begin_loader(self, stage: str, dataloader_idx: int) -> None:
        self._eval_seen = 0
        self._current_eval_dataloader_idx = dataloader_idx
        text = getattr(self, f"{'validation' if stage == 'validate' else stage}_description")
        several = len(self._totals(stage)) > 1
        self._begin(stage, f"{text} DataLoader {dataloader_idx}" if several else text, self._total(stage))

    def _finish(self, stage: str) -> None:
        if stage not in self._began:
            return
        self._redraw_if_due(0.0 if len(self._began) == 1 else self._due_at_ends)
        self.end_stage(stage)
        self.reset_dataloader_idx_tracker()
        took = perf_counter() - self._began.pop(stage)
        if "train" in self._began:
            self._began["train"] += took  # so that the speed of training does not seem to drop

    # ---- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if not trainer.is_global_zero:
            self.disable()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = 0
        self._begin("train", f"Epoch {trainer.current_epoch}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen = batch_idx + 1
        if perf_counter() >= self._due and self._seen % self.every_n_batches == 0:
            self._redraw_if_due(self._due)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._redraw_if_due(0.0 if self.leave else self._due_at_ends)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish("train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An evaluation begins: any of them."""
        self._begin_loader(f"{trainer.state.stage}", 0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx != self._current_eval_dataloader_idx and self._began:
            self._begin_loader(next(reversed(self._began)), dataloader_idx)
        self._eval_seen = batch_idx + 1
        if perf_counter() >= self._due and self._eval_seen % self.every_n_batches == 0:
            self._redraw_if_due(self._due)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(f"{trainer.state.stage}")

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        while self._began:  # without a last look at metrics, which may fail as well
            stage, _ = self._began.popitem()
            self.end_stage(stage)


def get_standard_metrics(trainer: Trainer) -> dict[str, int | str]:
    """`v_num`, the logger's version; of a long text its end."""
    version = trainer.logger.version if trainer.logger is not None else None
    if version in (None, ""):
        return {}
    return {"v_num": version[-4:] if isinstance(version, str) else version}


def number(value: Any) -> str:
    """A metric as text: floats with three digits and always as wide, so that the line does not jump."""
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.3g}"
    if not text.lstrip("-").replace(".", "", 1).isdecimal():  # nan, inf, 1e-05
        return text
    return (text if "." in text else f"{text}.").ljust(5, "0")
