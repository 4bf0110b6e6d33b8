"""Progress with rich."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.progress.progress_bar import ProgressBar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

    from fulmen.trainer import Trainer


@dataclass
class RichProgressBarTheme:
    """Styles of rich for the parts of `RichProgressBar`, and how its metrics are written."""

    description: str = ""
    progress_bar: str = "#6206E0"
    progress_bar_finished: str = "#6206E0"
    progress_bar_pulse: str = "#6206E0"
    batch_progress: str = ""
    time: str = "dim"
    processing_speed: str = "dim underline"
    metrics: str = "italic"
    metrics_text_delimiter: str = " "
    metrics_format: str = ".3f"


def _line(stage: str) -> Any:
    """rich's task that draws a stage."""
    return property(lambda self: self._task(stage))


class RichProgressBar(ProgressBar):
    """A line for each stage: description, bar, batches, elapsed and remaining time, speed, metrics.

    `refresh_rate` is the number of redraws in a second, of which there are never more than ten; 0 shows nothing.
    `leave` keeps the line of each epoch; `console_kwargs` are those of `rich.console.Console`. Override
    `configure_columns` for other columns; a task has the fields `batches`, `time`, `speed` and `metrics` as text.
    """

    def __init__(
        self,
        refresh_rate: int = 100,
        leave: bool = False,
        theme: RichProgressBarTheme | None = None,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self.leave = leave
        self.theme = theme or RichProgressBarTheme()
        self._console_kwargs = console_kwargs or {}
        self.enable()
        self.pause_s = max(self.pause_s, 1 / max(refresh_rate, 1))
        self.progress: Progress | None = None
        self._tasks: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "progress": None, "_tasks": {}}

    train_progress_bar: Task = _line("train")
    val_sanity_check_bar: Task = _line("sanity_check")
    val_progress_bar: Task = _line("validate")
    test_progress_bar: Task = _line("test")

    def _task(self, stage: str) -> Task:
        if self.progress is None or stage not in self._tasks:
            raise TypeError(f"The bar of {stage!r} does not exist yet; it is made when the stage is drawn first.")
        return next(task for task in self.progress.tasks if task.id == self._tasks[stage])

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """The columns of rich that make a line."""
        from rich.progress import BarColumn, TextColumn
        from rich.table import Column

        theme = self.theme

        def text(field: str, style: str, **options: Any) -> TextColumn:
            return TextColumn(f"{{task.{field}}}", style=style, markup=False, **options)

        return [
            text("description", theme.description),
            BarColumn(
                complete_style=theme.progress_bar,
                finished_style=theme.progress_bar_finished,
                pulse_style=theme.progress_bar_pulse,
            ),
            text("fields[batches]", theme.batch_progress),
            text("fields[time]", theme.time),
            text("fields[speed]", theme.processing_speed),
            text("fields[metrics]", theme.metrics, table_column=Column(overflow="fold")),
        ]

    def begin_stage(self, stage: str, text: str, total: float) -> None:
        if stage == "train":
            if self.leave:
                self._stop()
            if self.trainer.max_epochs and self.trainer.max_epochs > 0:
                text = f"{text}/{self.trainer.max_epochs - 1}"
        if self.progress is None:
            self.progress = self._start()
        if stage in self._tasks:
            self.progress.remove_task(self._tasks[stage])
        fields = _fields(0, total, 0.0, "")
        self._tasks[stage] = self.progress.add_task(text, total=None if math.isinf(total) else total, **fields)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(**self._console_kwargs)
        progress = Progress(*self.configure_columns(self.trainer), console=console, auto_refresh=False)
        progress.start()
        return progress

    def draw_stage(self, stage: str, seen: int, metrics: dict[str, Any]) -> None:
        theme, task = self.theme, self._task(stage)
        texts = (f"{n}: {format(v, theme.metrics_format) if isinstance(v, float) else v}" for n, v in metrics.items())
        elapsed_s = perf_counter() - self._began[stage]
        total = math.inf if task.total is None else task.total
        task.completed = seen
        task.fields.update(_fields(seen, total, elapsed_s, theme.metrics_text_delimiter.join(texts)))
        self.refresh()

    def refresh(self, hard: bool = False) -> None:
        """Show what was drawn; `hard` draws it anew before."""
        if hard:
            self._redraw_if_due(0.0)
        elif self.progress is not None:
            self.progress.refresh()

    def end_stage(self, stage: str) -> None:
        if self.progress is None:
            return
        if len(self._tasks) > 1 or stage == "sanity_check":
            self.progress.remove_task(self._tasks.pop(stage))
        else:
            self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress, self._tasks = None, {}


def _fields(seen: int, total: float, elapsed_s: float, metrics: str) -> dict[str, Any]:
    speed = seen / elapsed_s if elapsed_s else 0.0
    left = timedelta(seconds=int((total - seen) / speed)) if speed and not math.isinf(total) else "-:--:--"
    return {
        "batches": f"{seen}/{'--' if math.isinf(total) else int(total)}",
        "time": f"{timedelta(seconds=int(elapsed_s))} • {left}",
        "speed": f"{speed:.2f}it/s",
        "metrics": metrics,
    }
