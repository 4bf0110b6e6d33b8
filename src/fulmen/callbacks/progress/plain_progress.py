"""Progress as lines of text, for log files."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.progress.progress_bar import ProgressBar, number

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class PlainProgressBar(ProgressBar):
    """Prints a line at the end of each epoch and of each evaluation, and every ten seconds until then.

    Epoch 3: 938 of 938 batches in 12.3 s, v_num=0, train_loss=0.0421, val_loss=0.0635
    """

    pause_s = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._stages: dict[str, tuple[str, float, float]] = {}  # text, total, when it began, validation included

    def begin_stage(self, stage: str, text: str, total: float) -> None:
        self._stages[stage] = (text, total, perf_counter())
        self._due = perf_counter() + self.pause_s
        self._due_at_ends = math.inf  # a beginning is no news

    def draw_stage(self, stage: str, seen: int, metrics: dict[str, Any]) -> None:
        if stage == "sanity_check":
            return
        text, total, began = self._stages[stage]
        of_total = "" if math.isinf(total) else f" of {int(total)}"
        texts = [f"{text}: {seen}{of_total} batches in {perf_counter() - began:.1f} s"]
        print(", ".join(texts + [f"{name}={number(value)}" for name, value in metrics.items()]), flush=True)

    def redraw(self) -> None:
        super().redraw()
        self._due_at_ends = math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._began:
            self.redraw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began.clear()  # the last epoch has had its line
