"""Where the training loop stands, so that another process can go on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fulmen import seed
from fulmen.loop.progress import EPOCH_ENDED, IN_EPOCH, VALIDATED

if TYPE_CHECKING:
    from fulmen.loop.train import TrainLoop


def loop_state(loop: TrainLoop) -> dict[str, Any]:
    """Counters, and what an epoch in progress needs to go on exactly."""
    if loop.resume is not None:  # nothing has come after the checkpoint
        return loop.resume
    state: dict[str, Any] = {
        "progress": loop.progress.state_dict(),
        "stepping": loop.step.stepping,
        "settings": loop.step.settings,
        "row_at": loop.row_at,
        "closed": loop.batch_idx == loop.progress.batch,  # the next batch is in hand
        "ending": loop.ending,
        "should_stop": loop.trainer.stopping if loop.trainer.asked else loop.trainer.should_stop,
        **loop.again.state_dict(),
        **(moved_by_validation(loop) if loop.before is None else loop.before),
    }
    if loop.progress.point != EPOCH_ENDED and loop.is_open and loop.fetch is not None:
        state["loader"] = loop.fetch.state_dict()
    return state


def moved_by_validation(loop: TrainLoop) -> dict[str, Any]:
    """A checkpoint within validation holds what was before it, for it is run again."""
    sources = {"train": loop.source.state_dict(), "val": loop.validation.source.state_dict()}
    done = list(loop.validation.done)
    return {"rng": seed.capture(), "sources": sources, "validated": done, **loop.again.own_state()}


def norms(loop: TrainLoop) -> list[Tensor]:
    """The weights' norms, if there are hooks that may put others in place for validation, such as averaged ones."""
    hooks, module = loop.hooks, loop.trainer.lightning_module
    begins = hooks.on_validation_start or hooks.on_validation_epoch_start
    return [p.detach().norm() for p in module.parameters() if p.is_floating_point()] if begins else []


def holds_others(loop: TrainLoop | None) -> bool:
    """Whether they have done so on any rank, and not undone it yet: what is saved now would be the wrong weights."""
    if loop is None or loop.before is None:
        return False
    others = any(not torch.equal(before, now) for before, now in zip(loop.norms_before, norms(loop), strict=False))
    return loop.trainer.strategy.reduce_boolean_decision(others, all=False)


def restore_random(state: dict[str, Any] | None) -> None:
    """Random numbers go on where `state` was taken, if it is known."""
    if state is not None and state["rng"] is not None:
        seed.restore(state["rng"])


def group_counts(trainer: Any) -> list[int]:
    return [len(optimizer.param_groups) for optimizer in trainer.optimizers]


def keeps_gradients(loop: TrainLoop) -> bool:
    """Whether gradients of this moment go into a later step."""
    if not loop.trainer.lightning_module.automatic_optimization or loop.hooks.optimizer_zero_grad:
        return True  # nobody but the user knows
    return not loop.step.stepping


def take_over(loop: TrainLoop, state: dict[str, Any]) -> None:
    """Let the loop go on where `state` was taken."""
    loop.resume = state
    loop.progress.load_state_dict(state["progress"])
    sources = state.get("sources", {})
    train, loop.validation.source.former = sources.get("train"), sources.get("val")
    if "loader" in state and train is not None and len(train["loaders"]) == 1:  # the pass knows what it began with
        train = {**train, "loaders": ()}
    loop.source.former = train
    loop.validation.former = state.get("validated", [])
    loop.again.load(state)
    loop.row_at = state.get("row_at", loop.progress.stepped)
    loop.step.stepping = state.get("stepping", True)


def finish_batch(loop: TrainLoop, resume: dict[str, Any]) -> bool:
    """Do what was left of the batch that the checkpoint was taken at; False if the epoch's batches are over."""
    progress, step, hooks = loop.progress, loop.step, loop.hooks
    assert loop.fetch is not None
    if loop.same_run and resume.get("settings"):
        step.configure(*resume["settings"])
    step.is_last, step.stepping = loop.fetch.is_last, resume.get("stepping", True)
    loop.batch_idx = progress.batch - 1
    if progress.point == IN_EPOCH and progress.batch and not resume.get("closed"):
        due = progress.stepped % loop.row_every == 0 or loop.trainer.should_stop
        if due and step.stepping and loop.row_at != progress.stepped:
            loop.write_row()
        for hook in hooks.late_train_batch_end if loop.same_run else ():  # those that have saved by then know it
            hook({}, None, loop.batch_idx)
        if loop.schedule.due_on_resume:
            loop.validate()
        if loop.schedules and step.stepping:
            loop.schedulers.watch("step", progress.batch)
    elif progress.point == VALIDATED and loop.same_run and resume.get("ending") is False:
        loop.validation.end_again()
    progress.point = IN_EPOCH
    return not (loop.fetch.is_last or progress.steps >= loop.step_limit)
