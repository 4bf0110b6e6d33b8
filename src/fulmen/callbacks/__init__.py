"""Callbacks, each loaded when it is first named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulmen.callbacks.base import Callback, Checkpoint
    from fulmen.callbacks.checkpoint import ModelCheckpoint
    from fulmen.callbacks.early_stopping import EarlyStopping
    from fulmen.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
    from fulmen.callbacks.lambda_function import LambdaCallback
    from fulmen.callbacks.lr_monitor import LearningRateMonitor
    from fulmen.callbacks.model_summary import ModelSummary
    from fulmen.callbacks.on_exception import OnExceptionCheckpoint
    from fulmen.callbacks.progress import PlainProgressBar, ProgressBar, RichProgressBar, TQDMProgressBar
    from fulmen.callbacks.rich_model_summary import RichModelSummary
    from fulmen.callbacks.timer import Timer

_HOMES = {
    "Callback": "base",
    "Checkpoint": "base",
    "EarlyStopping": "early_stopping",
    "GradientAccumulationScheduler": "gradient_accumulation_scheduler",
    "LambdaCallback": "lambda_function",
    "LearningRateMonitor": "lr_monitor",
    "ModelCheckpoint": "checkpoint",
    "ModelSummary": "model_summary",
    "OnExceptionCheckpoint": "on_exception",
    "PlainProgressBar": "progress",
    "ProgressBar": "progress",
    "RichModelSummary": "rich_model_summary",
    "RichProgressBar": "progress",
    "TQDMProgressBar": "progress",
    "Timer": "timer",
}

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "PlainProgressBar",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "TQDMProgressBar",
    "Timer",
]


def __getattr__(name: str) -> object:
    if name.islower():  # a file that is being imported
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOMES:
        from fulmen.errors import nearest

        raise AttributeError(f"module {__name__!r} has no name {name!r}.{nearest(name, __all__)}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
