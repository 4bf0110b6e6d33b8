"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from fulmen import data, seed
from fulmen.checkpoint import find, state
from fulmen.errors import MisconfigurationException
from fulmen.logs import TRAIN_BATCH, TRAIN_EPOCH, LogStore
from fulmen.loop import rows
from fulmen.loop.account import Account, counted, is_idle
from fulmen.loop.again import Again
from fulmen.loop.evaluate import EvaluateLoop
from fulmen.loop.faster import speed_up
from fulmen.loop.fetch import Fetch, Pull
from fulmen.loop.progress import EPOCH_ENDED, IN_EPOCH, VALIDATED, VALIDATION_OVER, Progress
from fulmen.loop.resume import finish_batch, group_counts, moved_by_validation, norms, restore_random
from fulmen.loop.schedule import Schedule
from fulmen.loop.source import Source
from fulmen.loop.step import ManualStep, Step
from fulmen.states import RunningStage
from fulmen.warn import PossibleUserWarning, log, rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from fulmen.hooks import HookTable
    from fulmen.optim import Schedulers
    from fulmen.trainer import Trainer


class TrainLoop:
    """Epochs of batches:

        on_train_start
        for each epoch:
            on_train_epoch_start
            for each batch:
                on_train_batch_start, step, schedulers, on_train_batch_end
                a row for the loggers, a validation: when due
            on_train_epoch_end, a row for the loggers
        on_train_end

    `progress` says where it stands; put into a new loop, it makes `run` go on from there.
    """

    _changeable = ("max_epochs", "max_steps", "min_epochs", "min_steps")
    row_every, schedules = 50, False
    step_limit: float = math.inf

    def __init__(self, trainer: Trainer, source: Source, validation: EvaluateLoop, progress: Progress) -> None:
        self.trainer, self.source, self.validation, self.progress = trainer, source, validation, progress
        self.logs: LogStore = trainer.logs
        self.fetch: Fetch | None = None
        self.max_epochs: int = trainer.options.max_epochs if trainer.options.max_epochs is not None else -1
        epochs, steps = trainer.options.min_epochs, trainer.options.min_steps  # steps alone: an epoch at least
        self.min_epochs, self.min_steps = int(steps is not None) if epochs is None else epochs, steps or 0
        self.max_steps: int = trainer.options.max_steps
        self.num_batches: int | float = 0
        self.asks_ranks = False
        self.batch_idx = -1  # of the batch in hand, or the last one
        self.schedule = Schedule(self)
        self.account = Account()
        self.is_open = False  # whether the epoch's iterator is made
        self.ending = False  # whether its end is under way
        self.row_at = 0  # progress.stepped when the last row was written
        self.same_run = False  # whether a checkpoint is gone on from by the call that made it
        self.begins = False  # whether that call would, but there is no checkpoint yet
        self.resume: dict[str, Any] | None = None  # what a checkpoint held, until the loop stands where it was taken
        self.again = Again(self)  # what that checkpoint held that the hooks of a start may change
        self.before: dict[str, Any] | None = None  # while validation runs: what it moves until it is over
        self.held_before: dict[str, Any] = {}
        self.norms_before: list[torch.Tensor] = []
        self.loggers_before: dict[str, Any] | None = None

    def follow(self, previous: TrainLoop, same_module: bool) -> None:
        """In another fit: limits that were set on the last loop hold; the same module then goes on where that ended."""
        options = self.trainer.options
        if (previous.max_epochs, previous.max_steps) != (options.max_epochs, options.max_steps):
            self.max_epochs, self.max_steps = previous.max_epochs, previous.max_steps
            if same_module:
                self.progress.load_state_dict(previous.progress.state_dict())
                self.progress.batch = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from fulmen.compat.attributes import loop_attribute

        return loop_attribute(self, name)

    @property
    def epoch_loop(self) -> TrainLoop:
        """This loop: its limits and counters are settable as trainer.fit_loop.epoch_loop's too."""
        return self

    def take(self, step: Step, schedulers: Schedulers) -> None:
        """The parts that need the optimizers, whose making may ask this loop for its estimates."""
        self.step, self.schedulers = step, schedulers
        self.again.groups = group_counts(self.trainer)

    step: Step
    schedulers: Schedulers

    # ---- the run

    def run(self) -> None:
        if self.skips():
            return
        self.prepare()
        speed_up([*self.source.loaders, *self.validation.source.loaders], self.trainer.optimizers)
        self.account.start(self.progress.batches)
        if self.trainer.global_rank and self.resume is None and not self.progress.batches:
            seed.part(self.trainer.global_rank)
        self.logs.enter(TRAIN_EPOCH)
        self.again.before_start()
        for hook in self.hooks.on_train_start:
            hook()
        self.again.after_start()
        if self.begins and not self.progress.batches:
            find.save_beginning(self.trainer)
        find.has_begun(self.trainer)
        while not self.finished():
            self.run_epoch()
        self.logs.enter(None)
        for hook in self.hooks.on_train_end:
            hook()
        self.account.finish(self.progress.batches, self.source.loaders[0], self.trainer.strategy)

    @property
    def validates(self) -> bool:
        """Whether there is something to validate with and on."""
        return self.validation.enabled and self.validation.source.exists

    @property
    def hooks(self) -> HookTable:
        return self.trainer.hooks

    def skips(self) -> bool:
        """Whether there is nothing to do at all."""
        trainer = self.trainer
        if self.max_epochs == 0 or self.max_steps == 0 or trainer.limit_train_batches == 0:
            rank_zero_info("Nothing to train: max_epochs, max_steps or limit_train_batches is 0.")
            return True
        if trainer.should_stop and self.may_stop() and self.resume is None:
            return True
        if self.finished():  # by a checkpoint, or an earlier fit
            restore_random(self.resume if self.same_run else None)
            rank_zero_warn(
                f"Nothing to train: the run stands at epoch {self.progress.epoch}, step {self.progress.steps}, and "
                f"max_epochs={self.max_epochs}, max_steps={self.max_steps} are already reached. Set max_epochs higher."
            )
            return True
        return False

    def finished(self) -> bool:
        under_way = self.same_run and self.resume is not None  # of the last step's epoch the end may be left
        if (self.reached_steps and not under_way) or (self.max_epochs != -1 and self.progress.epoch >= self.max_epochs):
            return True
        return self.trainer.should_stop and self.may_stop() and self.resume is None

    @property
    def reached_steps(self) -> bool:
        return self.max_steps != -1 and self.progress.steps >= self.max_steps

    def may_stop(self) -> bool:
        """should_stop counts from min_epochs and min_steps on."""
        return self.progress.epoch >= self.min_epochs and self.progress.steps >= self.min_steps

    def prepare(self) -> None:
        """Loaders and schedules of the first epoch."""
        if not self.source.loaded or self.source.former is not None:  # configure_optimizers may have asked for them
            self.load_data()
        validation = self.validation.source
        if validation.exists and self.validation.enabled and not validation.loaded:
            self.validation.load_data()
        self.schedule.plan()
        every = self.trainer.log_every_n_steps
        if self.trainer.loggers and self.num_batches < every and not self.trainer.fast_dev_run:
            rank_zero_warn(
                f"An epoch has {self.num_batches} batches, fewer than log_every_n_steps={every}: set it lower to see "
                "the logs of steps.",
                category=PossibleUserWarning,
            )
        trainer, accumulate = self.trainer, self.trainer.accumulate_grad_batches
        meant = trainer.fast_dev_run or trainer.overfit_batches or trainer.options.accumulate_across_epochs
        if self.num_batches < accumulate and not meant:
            rank_zero_warn(
                f"accumulate_grad_batches={accumulate} is more than the {self.num_batches} batches of an epoch, and "
                "accumulation ends with the epoch: each step is one of fewer batches. accumulate_across_epochs=True "
                "lets it go on."
            )

    def load_data(self) -> None:
        trainer, source = self.trainer, self.source
        epoch = self.progress.epoch + (self.progress.point == EPOCH_ENDED)
        renews = source.former is not None and source.due(trainer.reload_dataloaders_every_n_epochs, epoch)
        if renews:  # the checkpoint is from before the loaders of this epoch were made
            self.again.before_loaders()
        source.load(trainer.strategy, trainer.options.use_distributed_sampler, bool(trainer.overfit_batches), epoch)
        if renews:
            self.again.after_loaders()
        (self.num_batches,) = source.limits(trainer.limit_train_batches, "limit_train_batches")
        if self.num_batches == 0:
            raise MisconfigurationException(
                "The train dataloader gives no batches: its dataset is empty, or drop_last=True with fewer samples "
                "than batch_size."
            )
        self.agree_on_length()

    def agree_on_length(self) -> None:
        """Every step is one of all ranks together, so all need as many batches."""
        ranks = self.trainer.strategy.gather_object((self.num_batches, self.source.lengths[0]))
        counts = [count for count, _ in ranks]
        self.asks_ranks = len(ranks) > 1 and any(length == math.inf for _, length in ranks)  # each step, for a batch
        if not self.asks_ranks and len(set(counts)) > 1:
            raise MisconfigurationException(
                f"The ranks have different numbers of train batches, {counts}, and would wait for each other: give "
                f"all the same, or set limit_train_batches={min(counts)}."
            )

    def together(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, as long as every rank has one; the last one of any rank is the last of all."""
        strategy, fetch, end = self.trainer.strategy, self.fetch, object()
        assert fetch is not None
        batch = next(batches, end)
        while strategy.reduce_boolean_decision(batch is not end, all=True):
            more = not fetch.is_last
            fetch.is_last = not strategy.reduce_boolean_decision(more, all=True)
            if fetch.is_last and more:
                log.warning(
                    "Rank %d has batches left when another rank has none: the epoch ends for all. Share the data "
                    "out evenly to use them.", strategy.global_rank,
                )  # fmt: skip
            yield batch
            if fetch.is_last:
                return
            batch = next(batches, end)

    # ---- one epoch

    def run_epoch(self) -> None:
        progress, resume = self.progress, self.resume
        if resume is not None and "loader" not in resume:  # the checkpoint was not taken within an epoch's batches
            restore_random(resume)
            resume = self.resume = None
        if progress.point != EPOCH_ENDED:
            batches = self.start_epoch(resume)
            self.run_batches(batches, resume)
            self.end_epoch()
        elif self.same_run:  # the checkpoint is one of these hooks'; those that have saved by then know it
            for hook in self.hooks.late_train_epoch_end:
                hook()
        self.close_epoch()

    def start_epoch(self, resume: dict[str, Any] | None) -> Iterator[Any]:
        """Everything that is settled once an epoch; gives the iterator over its batches."""
        trainer, epoch = self.trainer, self.progress.epoch
        if self.source.due(trainer.reload_dataloaders_every_n_epochs, epoch):
            self.load_data()
            self.schedule.plan()
        loader = self.source.loaders[0]
        data.set_epoch(loader, epoch)
        trainer.refresh_hooks()
        self.logs.enter(TRAIN_EPOCH)
        self.again.before_epoch(resume is not None)
        for hook in self.hooks.on_train_epoch_start:
            hook()
        self.again.after_epoch_start(resume is not None)
        trainer.refresh_hooks()
        self.configure_step()
        self.schedule.start_epoch()
        self.row_every = trainer.log_every_n_steps or 2**62
        self.step_limit = math.inf if self.max_steps == -1 else self.max_steps
        self.schedules = bool(self.schedulers.configs)
        prepare = self.account.moving(trainer.preparation("train"))
        self.fetch = Fetch(loader, self.source.lengths[0], self.num_batches, prepare)
        self.open_iterator(resume)
        batches = self.account.watched(iter(self.fetch), is_idle(trainer.strategy.root_device))
        return self.together(batches) if self.asks_ranks else batches

    def configure_step(self) -> None:
        trainer, progress = self.trainer, self.progress
        self.step.configure(trainer.accumulate_grad_batches, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        if trainer.options.accumulate_across_epochs:
            before = progress.batches - progress.batch
            self.step.carry(before % trainer.accumulate_grad_batches, progress.epoch + 1 == self.max_epochs)
        torch.set_grad_enabled(True)

    @counted("opening")
    def open_iterator(self, resume: dict[str, Any] | None) -> None:
        """Make the loader's iterator; in a resumed epoch the one that goes on behind the batches already seen."""
        assert self.fetch is not None
        self.is_open, self.resume = True, None
        if resume is None:
            self.fetch.start(f"{self.trainer.global_rank} train {self.progress.batches}")
            return
        self.fetch.resume(resume["loader"], self.progress.batch)
        self.again.put_own_back()  # a batch that was fetched ahead may have come of what they kept before
        restore_random(resume)

    def run_batches(  # noqa: C901, PLR0915 - the way of every batch, without a call that can be spared
        self, batches: Iterator[Any], resume: dict[str, Any] | None
    ) -> None:
        if resume is not None and not finish_batch(self, resume):
            return
        if self.trainer.should_stop and self.may_stop():
            return
        if self.step.takes == "iterator":
            self.pull = Pull(iter(batches), self.progress.batch)
            batches = self.pull.firsts()
        trainer, hooks, logs, step = self.trainer, self.hooks, self.logs, self.step
        progress, fetch, account, clock = self.progress, self.fetch, self.account, perf_counter
        assert fetch is not None
        batch_start, batch_end, late = hooks.on_train_batch_start, hooks.on_train_batch_end, hooks.late_train_batch_end
        schedule = self.schedule
        run_step = step.run if step.takes != "iterator" else self.run_pulling
        logs.enter(TRAIN_BATCH)
        before = account.mark()
        for batch in batches:
            account.data += clock() - before
            self.batch_idx = idx = progress.batch
            logs.batch = batch
            answer = None
            for hook in batch_start if batch is not None else ():
                answer = hook(batch, idx)
            if answer == -1 and self.module_skips(batch_start):
                self.schedulers.after_epoch(progress.epoch + 1)
                return
            step.is_last = fetch.is_last
            output = run_step(batch, idx) if batch is not None else self.pass_over()
            progress.batch = fetch.count
            progress.batches += 1
            if logs.unsynced:
                logs.sync()
            if self.schedules:
                self.step_schedulers()
            done = clock() if step.listens else 0.0
            for hook in batch_end:
                hook(output, batch, idx)
            if step.stepping and (progress.stepped % self.row_every == 0 or trainer.should_stop):
                self.write_row()
            for hook in late:
                hook(output, batch, idx)
            if trainer.asked:
                trainer.stop_if_asked(0)
            if (progress.batch >= schedule.at or fetch.is_last or self.trainer.should_stop) and schedule.due:
                self.validate()
            before = clock()
            if step.listens:
                account.callbacks += before - done - account.apart
                account.apart = 0.0
            if self.schedules and step.stepping:
                self.schedulers.watch("step", progress.batch)
            if progress.steps >= self.step_limit or (self.trainer.should_stop and self.may_stop()):
                return

    def run_pulling(self, batch: Any, batch_idx: int) -> Any:
        """A step that asks for more batches than there are ends the epoch."""
        try:
            return self.step.run(self.pull, batch_idx)
        except StopIteration:
            return None

    def pass_over(self) -> None:
        """A batch that is None, as a collate_fn gives one that found no good sample: nothing is trained on."""
        self.step.stepping = False
        rank_zero_warn("The train dataloader gave None instead of a batch: it is passed over, without a step.")

    def module_skips(self, batch_start: tuple[Callable[..., Any], ...]) -> bool:
        """A -1 counts when the module's own hook, the last one, returned it."""
        return getattr(batch_start[-1], "__self__", None) is self.trainer.lightning_module

    def step_schedulers(self) -> None:
        """Schedulers by step after a step, and those by epoch after the last batch."""
        if self.step.stepping:
            self.schedulers.after_step(self.progress.batch)
        if self.fetch is not None and self.fetch.is_last:
            self.schedulers.after_epoch(self.progress.epoch + 1)

    @counted("logging")
    def write_row(self) -> None:
        progress = self.progress
        if not self.trainer.log_every_n_steps:
            return  # not even where the run is to stop
        self.row_at = progress.stepped
        rows.write(self.trainer.loggers, self.logs.read_row(), progress.stepped - 1, progress.epoch)

    @counted("callbacks")
    def end_epoch(self) -> None:
        """The hooks of the epoch's end, its values and their row; checkpoints last."""
        trainer, progress, logs = self.trainer, self.progress, self.logs
        self.step.guard.settle()
        logs.finish("train")
        logs.enter(TRAIN_EPOCH)
        self.ending = True
        progress.point = VALIDATED  # what is saved from here on has only this end of the epoch before it
        for hook in self.hooks.on_train_epoch_end:
            hook()
        row = logs.close("train")
        logs.clear("train")
        if progress.epoch == 0 and isinstance(self.step, ManualStep):
            self.step.warn_if_idle()
        rows.write(trainer.loggers, row, progress.stepped - 1, progress.epoch)
        progress.point = EPOCH_ENDED
        for hook in (*self.hooks.checks_train_epoch_end, *self.hooks.late_train_epoch_end):
            hook()

    def close_epoch(self) -> None:
        progress, self.is_open, self.ending = self.progress, False, False
        if self.schedulers.plateaus and (self.fetch is None or self.fetch.is_last or not self.reached_steps):
            self.schedulers.watch("epoch", progress.epoch + 1)
        progress.next_epoch()

    # ---- validation within training

    @counted("validation")
    def validate(self) -> None:
        trainer, progress = self.trainer, self.progress
        if self.validation.source.due(trainer.reload_dataloaders_every_n_epochs, progress.epoch):
            self.validation.load_data()
        if self.step.stepping:
            self.zero_grad()
        trainer.state.stage = RunningStage.VALIDATING
        self.before, self.held_before = moved_by_validation(self), state.before_validation(trainer)
        self.norms_before = norms(self)
        self.validation.run_epoch()
        self.before, self.held_before, self.loggers_before = None, {}, None
        progress.validations += 1
        progress.point = VALIDATED
        self.validation.end()
        trainer.state.stage = RunningStage.TRAINING
        if trainer.asked:
            trainer.stop_if_asked(VALIDATION_OVER)
        progress.point = IN_EPOCH
        self.schedule.advance()
        torch.set_grad_enabled(True)
        self.logs.enter(TRAIN_BATCH)

    def zero_grad(self) -> None:
        """The gradients' memory is free while validation runs."""
        with self.logs.closed():
            for hook in self.hooks.on_validation_model_zero_grad:
                hook()
        if not self.hooks.on_validation_model_zero_grad:
            self.trainer.lightning_module.zero_grad()
