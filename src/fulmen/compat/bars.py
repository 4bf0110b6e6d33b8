"""Progress bars of one's own from the days when `ProgressBar` drew with tqdm, and its base counted the batches."""

from __future__ import annotations

from functools import wraps
from operator import attrgetter
from typing import Any

from fulmen.callbacks import ProgressBar, TQDMProgressBar
from fulmen.compat.attributes import loss_shown
from fulmen.warn import warn_once

STAGES = {"train": "_seen", "val": "_eval_seen", "test": "_eval_seen", "predict": "_eval_seen"}
ENDS = ("on_train_batch_end", "on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end")
TODAY = "ProgressBar, which drew with tqdm, is TQDMProgressBar today."


def complete(found: Any = None) -> None:
    """Once: give the base of the bars what it had, or tqdm's its old name of the bar of training."""
    for stage, seen in STAGES.items():
        setattr(ProgressBar, f"{stage}_batch_idx", property(attrgetter(seen)))
    if not hasattr(ProgressBar.get_metrics, "__wrapped__"):
        ProgressBar.get_metrics = _with_loss(ProgressBar.get_metrics)  # type: ignore[method-assign]
    if found is TQDMProgressBar:
        found.main_progress_bar = found.train_progress_bar  # type: ignore[attr-defined]
        return
    if hasattr(ProgressBar.__init__, "__wrapped__"):
        return
    for name in ENDS:
        setattr(ProgressBar, name, _counting(vars(ProgressBar)[name]))
    original = ProgressBar.__init__

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is ProgressBar:
            warn_once(TODAY)
            self.__class__ = TQDMProgressBar
            self.__init__(*args, **kwargs)
        else:
            original(self, *args, **kwargs)

    ProgressBar.__init__ = init  # type: ignore[method-assign]
    ProgressBar.__init_subclass__ = classmethod(_based)  # type: ignore[assignment]


def _based(cls: Any, **_: Any) -> None:
    """A bar that says nothing of how it is drawn, or that makes bars of tqdm, was one of tqdm."""
    own = vars(cls)
    if ProgressBar in cls.__bases__ and (
        any(name.startswith("init_") for name in own) or not any(name.startswith(("on_", "draw_")) for name in own)
    ):
        warn_once(TODAY)
        cls.__bases__ = tuple(TQDMProgressBar if base is ProgressBar else base for base in cls.__bases__)


class _Shown(dict[str, Any]):
    """What a bar shows, which has the loss for whom it asks; until 2.0 it was always shown."""

    trainer: Any

    def __missing__(self, name: str) -> Any:
        return loss_shown(self.trainer)[name]


def _with_loss(function: Any) -> Any:
    @wraps(function)
    def get_metrics(self: Any, trainer: Any, *args: Any) -> Any:
        shown = _Shown(function(self, trainer, *args))
        shown.trainer = trainer
        return shown

    return get_metrics


def _counting(function: Any) -> Any:
    """The hook, which counts by itself where it is not told of a batch."""

    training = "train" in function.__name__

    @wraps(function)
    def method(self: Any, trainer: Any, pl_module: Any, outputs: Any = None, *args: Any, **kwargs: Any) -> None:
        if not args and not kwargs:
            args = None, self._seen if training else self._eval_seen
        function(self, trainer, pl_module, outputs, *(args[:2] if training else args), **kwargs)

    return method
