"""Progress with tqdm."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.progress.progress_bar import ProgressBar, number

if TYPE_CHECKING:
    from tqdm import tqdm


def _bar_of(stage: str, before: str = "") -> Any:
    """tqdm's bar that draws a stage, or what came `before` it; it is made when it is first needed, or set."""

    def drawn(self: TQDMProgressBar) -> str:
        return before if before in self._bars else stage

    return property(lambda self: self._bar(drawn(self)), lambda self, bar: self._bars.update({drawn(self): bar}))


class TQDMProgressBar(ProgressBar):
    """A bar of tqdm for each stage; in a notebook its widget.

    `refresh_rate`: 0 shows nothing, 1 draws as often as is useful, more draws every so many batches. `process_position`
    moves the bars down by so many pairs of lines, `leave` keeps the bar of each epoch. Override `init_train_tqdm` and
    its like to make bars of your own.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    process_position: int

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self.process_position = process_position
        self.leave = leave
        self._bars: dict[str, tqdm] = {}
        self.enable()
        self.every_n_batches = max(refresh_rate, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_bars": {}}

    train_progress_bar: tqdm = _bar_of("train")
    val_progress_bar: tqdm = _bar_of("validate", "sanity_check")
    test_progress_bar: tqdm = _bar_of("test")
    predict_progress_bar: tqdm = _bar_of("predict")

    def _bar(self, stage: str) -> tqdm:
        if stage not in self._bars:
            kind = {"sanity_check": "sanity", "validate": "validation"}.get(stage, stage)
            self._bars[stage] = getattr(self, f"init_{kind}_tqdm")()
        return self._bars[stage]

    def init_sanity_tqdm(self) -> tqdm:
        return self._new(self.sanity_check_description, leave=False)

    def init_train_tqdm(self) -> tqdm:
        return self._new(self.train_description, leave=True)

    def init_validation_tqdm(self) -> tqdm:
        inside = "train" in self._bars
        return self._new(self.validation_description, leave=not inside, line=int(inside))

    def init_test_tqdm(self) -> tqdm:
        return self._new(self.test_description, leave=True)

    def init_predict_tqdm(self) -> tqdm:
        return self._new(self.predict_description, leave=True)

    def _new(self, text: str, *, leave: bool, line: int = 0) -> tqdm:
        try:
            module = import_module("tqdm.auto" if "ipykernel" in sys.modules else "tqdm")
        except ImportError as error:
            raise ModuleNotFoundError("TQDMProgressBar needs the package tqdm: pip install tqdm.") from error
        # without the thread that looks for bars drawn too seldom: forks do not like threads
        bar = type("Bar", (module.tqdm,), {"monitor_interval": 0})
        return bar(
            desc=text,
            position=2 * self.process_position + line,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def begin_stage(self, stage: str, text: str, total: float) -> None:
        if stage == "train" and self.leave:
            self.end_stage(stage)
        bar = self._bar(stage)
        bar.set_description(text, refresh=False)
        bar.reset()
        bar.total = None if math.isinf(total) else int(total)

    def draw_stage(self, stage: str, seen: int, metrics: dict[str, Any]) -> None:
        bar = self._bars[stage]
        bar.n = seen
        bar.set_postfix_str(", ".join(f"{name}={number(value)}" for name, value in metrics.items()), refresh=False)
        bar.refresh()

    def end_stage(self, stage: str) -> None:
        if stage in self._bars:
            self._bars.pop(stage).close()

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print above the bar."""
        if not self._bars:
            print(*args, sep=sep, **kwargs)
            return
        bar = next(iter(self._bars.values()))
        bar.write(sep.join(map(str, args)), **kwargs)
