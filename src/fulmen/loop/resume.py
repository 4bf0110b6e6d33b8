"""Where the training loop stands, so that another process can go on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulmen import seed
from fulmen.loop.progress import EPOCH_ENDED

if TYPE_CHECKING:
    from fulmen.loop.train import TrainLoop


def loop_state(loop: TrainLoop) -> dict[str, Any]:
    """Counters, and what an epoch in progress needs to go on exactly."""
    if loop.resume is not None:  # nothing has come after the checkpoint
        return loop.resume
    state: dict[str, Any] = {
        "progress": loop.progress.state_dict(),
        "stepping": loop.step.stepping,
        "row_at": loop.row_at,
        "closed": loop.batch_idx == loop.progress.batch,  # the next batch is in hand
        "should_stop": loop.trainer.should_stop and loop.trainer.signals.received is None,
        **(moved_by_validation(loop) if loop.before is None else loop.before),
    }
    if loop.progress.point != EPOCH_ENDED and loop.is_open and loop.fetch is not None:
        state["loader"] = loop.fetch.state_dict()
    return state


def moved_by_validation(loop: TrainLoop) -> dict[str, Any]:
    """A checkpoint within validation holds what was before it, for it is run again."""
    sources = {"train": loop.source.state_dict(), "val": loop.validation.source.state_dict()}
    return {"rng": seed.capture(), "sources": sources, "validated": list(loop.validation.done)}


def keeps_gradients(loop: TrainLoop) -> bool:
    """Whether gradients of this moment go into a later step."""
    if not loop.trainer.lightning_module.automatic_optimization or loop.hooks.optimizer_zero_grad:
        return True  # nobody but the user knows
    return not loop.step.stepping and loop.progress.point != EPOCH_ENDED


def take_over(loop: TrainLoop, state: dict[str, Any]) -> None:
    """Let the loop go on where `state` was taken."""
    loop.resume = state
    loop.progress.load_state_dict(state["progress"])
    sources = state.get("sources", {})
    loop.source.former, loop.validation.source.former = sources.get("train"), sources.get("val")
    loop.validation.former = state.get("validated", [])
    loop.row_at = state.get("row_at", loop.progress.stepped)
