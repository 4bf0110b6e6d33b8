"""The part of a checkpoint's layout that is there for other readers of the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulmen.combined import CombinedLoader
from fulmen.loop.progress import IN_EPOCH
from fulmen.states import RunningStage

if TYPE_CHECKING:
    from fulmen.loop.progress import Progress
    from fulmen.loop.train import TrainLoop
    from fulmen.trainer import Trainer

OTHERS = ("validate_loop", "test_loop", "predict_loop")
VERSION_KEY = "pytorch-lightning_version"
VERSION = "2.6.6"
"""The version of the layout that this file follows."""


def loops(trainer: Trainer) -> dict[str, Any]:
    """Where the loops stand, in the layout's own words.

    An epoch is either open behind one of its batches, or done: what comes after its last batch but validation (hooks,
    plateaus) is told as done, since other readers would train on further batches of it.
    """
    progress, loop = trainer.progress, trainer.train_loop
    validating = trainer.state.stage == RunningStage.VALIDATING and progress.batch > 0
    over = loop is not None and loop.fetch is not None and loop.fetch.is_last and loop.fetch.count == progress.batch
    is_open = validating or (progress.point == IN_EPOCH and progress.batch > 0 and not over)
    done = progress.epoch + (not is_open and (progress.point != IN_EPOCH or progress.batch > 0))
    manual = not trainer.lightning_module.automatic_optimization
    stepping = is_open and loop is not None and loop.step.stepping  # counted as soon as the batch is closed
    fit = {
        "state_dict": _loaders(loop) if is_open else {},
        "epoch_loop.state_dict": {"_batches_that_stepped": progress.stepped - stepping},
        "epoch_loop.batch_progress": _batches(progress, is_open, validating, over),
        "epoch_loop.scheduler_progress": _both(_two(0)),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": _both(_two(0), _two(0 if manual else progress.steps)),
                "zero_grad": _both(_two(0) | {"started": 0}),
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": _both(_two(progress.steps if manual else 0)),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": _both(_four(0)) | {"is_last_batch": False},
        "epoch_progress": _both(_four(done, done + is_open, done + is_open, done)),
    }
    idle = {name: {"state_dict": {}, "batch_progress": _both(_four(0))} for name in OTHERS}
    for name in OTHERS[:2]:
        idle[name]["batch_progress"]["is_last_batch"] = False
    return {"fit_loop": fit, **idle}


def _batches(progress: Progress, is_open: bool, validating: bool, over: bool) -> dict[str, Any]:
    """Counters of batches; the last one of an open epoch is not closed until its validation runs."""
    if not is_open:
        return _both(_four(0), _four(progress.batches)) | {"is_last_batch": False}
    closed = [_four(count - (not validating), count, count, count) for count in (progress.batch, progress.batches)]
    return _both(*closed) | {"is_last_batch": over}


def _loaders(loop: TrainLoop | None) -> dict[str, Any]:
    """The state of the training data's loaders, where they have one."""
    if loop is None or loop.fetch is None or (state := loop.fetch.loader_state()) is None:
        return {}
    return {"combined_loader": state["loaders"] if isinstance(loop.fetch.loader, CombinedLoader) else [state]}


def _both(current: dict[str, int], total: dict[str, int] | None = None) -> dict[str, Any]:
    return {"total": dict(current) if total is None else total, "current": current}


def _two(count: int) -> dict[str, int]:
    return {"ready": count, "completed": count}


def _four(completed: int, *more: int) -> dict[str, int]:
    """`more`: ready, started and processed where they differ."""
    ready, started, processed = more or (completed,) * 3
    return {"ready": ready, "completed": completed, "started": started, "processed": processed}
