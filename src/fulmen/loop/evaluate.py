"""Validation and test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from fulmen import data
from fulmen.checkpoint import state
from fulmen.errors import MisconfigurationException
from fulmen.hooks import check_step
from fulmen.logs import PHASES
from fulmen.loop import rows
from fulmen.loop.fetch import Fetch, Pull
from fulmen.loop.guard import check_weights
from fulmen.loop.progress import ALL_EVALUATED
from fulmen.loop.source import Source
from fulmen.states import RunningStage
from fulmen.values import read
from fulmen.warn import PossibleUserWarning, rank_zero_warn, warn_once

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


class EvaluateLoop:
    """One pass over the loaders of a stage, "validation" or "test":

    on_<stage>_start, on_<stage>_epoch_start
    for each loader, for each batch: on_<stage>_batch_start, <stage>_step, on_<stage>_batch_end
    on_<stage>_epoch_end, a row for the loggers, on_<stage>_end
    """

    def __init__(self, trainer: Trainer, source: Source, stage: str) -> None:
        self.trainer, self.source, self.stage = trainer, source, stage
        self.module = trainer.lightning_module
        self.inside_fit = False
        self.sanity = False
        self.closing = False  # all batches of an epoch were seen
        self.counts: list[int | float] = []  # batches to run of each loader
        self.done: list[int] = []  # batches run of each loader, over the epochs of a fit
        self.former: list[int] = []  # the same, of the run that goes on here
        self.results: list[dict[str, float]] = []
        self.modes: dict[torch.nn.Module, bool] = {}
        self.batch_idx, self.loader_idx = 0, 0
        self.fetch: Fetch | None = None

    @property
    def enabled(self) -> bool:
        from fulmen.hooks import overrides
        from fulmen.module import LightningModule

        return self._limit != 0 and overrides(self.module, f"{self.stage}_step", LightningModule)

    @property
    def _argument(self) -> str:
        return "limit_val_batches" if self.stage == "validation" else f"limit_{self.stage}_batches"

    @property
    def _limit(self) -> int | float:
        return getattr(self.trainer, self._argument)

    def load_data(self) -> None:
        trainer = self.trainer
        overfit = bool(trainer.overfit_batches) and self.stage == "validation" and self.inside_fit
        self.source.load(trainer.strategy, trainer.options.use_distributed_sampler, overfit, trainer.current_epoch)
        self.counts = self.source.limits(self._limit, self._argument)
        self.done = [0] * len(self.counts)
        if len(self.former) == len(self.done):
            self.done, self.former = self.former, []
        for loader in self.source.loaders:
            if data.is_shuffled(loader):
                rank_zero_warn(
                    f"The {self.source.stage} dataloader is shuffled; set shuffle=False, so that runs can be compared.",
                    category=PossibleUserWarning,
                )
        self.takes = check_step(self.module, f"{self.stage}_step")
        if len(self.counts) > 1 and "dataloader_idx" not in self.takes and self.takes != "iterator":
            raise MisconfigurationException(
                f"{type(self.module).__name__}.{self.stage}_step is given batches of {len(self.counts)} dataloaders: "
                "add the argument dataloader_idx to its signature, (self, batch, batch_idx, dataloader_idx=0)."
            )

    def run(self) -> list[dict[str, float]]:
        if not any(self.counts) and self.source.loaded:
            return []
        self.run_epoch()
        self.end()
        return self.results

    def context(self) -> Any:
        if self.inside_fit or not self.trainer.options.inference_mode or self.trainer.strategy.wraps:
            return torch.no_grad()
        return torch.inference_mode()

    def run_epoch(self) -> None:
        """Everything up to on_<stage>_epoch_end, with its values ready."""
        trainer, logs = self.trainer, self.trainer.logs
        self.closing = False
        if not self.source.loaded:
            self.load_data()
        hooks = trainer.hooks
        batch_phase, epoch_phase = PHASES[self.stage]
        logs.enter(None)
        trainer.strategy.sync_buffers()
        self._mode(f"on_{self.stage}_model_eval", train=False)
        with self.context():
            logs.enter(epoch_phase)
            for hook in (*getattr(hooks, f"on_{self.stage}_start"), *getattr(hooks, f"on_{self.stage}_epoch_start")):
                hook()
            several = len(self.counts) > 1
            for idx, count in enumerate(self._counts()):
                logs.enter(batch_phase, idx if several else None)
                self.run_loader(idx, count)
            self.closing = True
            if trainer.asked:
                trainer.stop_if_asked(ALL_EVALUATED)
            logs.finish(self.stage)
            logs.enter(epoch_phase)
            for hook in getattr(hooks, f"on_{self.stage}_epoch_end"):
                hook()
            self.results = logs.by_loader(self.stage, len(self.counts)) if not self.inside_fit else []
            self.row = logs.close(self.stage)

    def _counts(self) -> list[int | float]:
        most = self.trainer.num_sanity_val_steps
        if not self.sanity or most == -1:
            return self.counts
        return [min(count, most) for count in self.counts]

    def end(self) -> None:
        """The row, the end hooks, and the modules' modes of before."""
        trainer = self.trainer
        if self.inside_fit and trainer.options.nonfinite != "warn":
            bad = [f"{name}={value}" for name, value in read(self.row).items() if not math.isfinite(value)]
            if bad:
                check_weights(self.module, f"training, where validation gave {bad[0]},")
                if not self.sanity:
                    warn_once(f"Validation gave {bad[0]}; the weights are finite, and training goes on.")
        if not self.sanity:
            step = trainer.progress.stepped - (self.inside_fit and trainer.step.stepping)
            rows.write(trainer.loggers, self.row, step, trainer.current_epoch)
        trainer.logs.enter(None)
        with self.context():
            for hook in getattr(trainer.hooks, f"on_{self.stage}_end"):
                hook()
            for hook in trainer.hooks.late_validation_end if self.stage == "validation" else ():
                hook()
        trainer.logs.clear(self.stage)
        self._mode(f"on_{self.stage}_model_train", train=True)
        self.fetch = None

    def end_again(self) -> None:
        """The last of those hooks, after a checkpoint that one of them has made: it knows that it has."""
        self.trainer.state.stage = RunningStage.VALIDATING
        for hook in self.trainer.hooks.late_validation_end:
            hook()
        self.trainer.state.stage = RunningStage.TRAINING

    def _mode(self, name: str, train: bool) -> None:
        """Evaluation mode, or back to what it was; a module that overrides the hook decides itself."""
        own = getattr(self.trainer.hooks, name)
        if not train:
            self.modes = {m: m.training for m in self.module.modules()}
        if own:
            own[0]()
        elif not train:
            self.module.eval()
        else:
            for module, mode in self.modes.items():
                module.training = mode
        if train:
            self.modes = {}

    def run_loader(self, loader_idx: int, count: int | float) -> None:
        trainer, logs, stage, hooks = self.trainer, self.trainer.logs, self.stage, self.trainer.hooks
        self.loader_idx = loader_idx
        fetch = self.fetch = Fetch(
            self.source.loaders[loader_idx], self.source.lengths[loader_idx], count,
            trainer.preparation("val" if stage == "validation" else stage, loader_idx),
        )  # fmt: skip
        fetch.start(f"{trainer.global_rank} {stage} {loader_idx} {trainer.progress.batches}")
        batch_start, batch_end = getattr(hooks, f"on_{stage}_batch_start"), getattr(hooks, f"on_{stage}_batch_end")
        if self.takes == "iterator":
            for _ in pulled(trainer, stage, fetch, loader_idx):
                self.done[loader_idx] += 1
                if trainer.asked:
                    trainer.stop_if_asked(1 + sum(self.done))
            return
        run_step, takes_loader = step_call(trainer, f"{stage}_step", self.takes, several=len(self.counts) > 1)
        for idx, batch in enumerate(fetch):
            self.batch_idx = idx
            logs.batch = batch
            for hook in batch_start:
                hook(batch, idx, loader_idx)
            output = run_step(batch, idx, loader_idx) if takes_loader else run_step(batch, idx)
            for hook in batch_end:
                hook(output, batch, idx, loader_idx)
            if logs.unsynced:
                logs.sync()
            if logs.evaluation_rows:
                self.write_step_row()
            self.done[loader_idx] += 1
            if trainer.asked:
                trainer.stop_if_asked(1 + sum(self.done))

    def write_step_row(self) -> None:
        if not self.sanity:
            loop = self.trainer.train_loop
            if self.inside_fit and loop is not None and loop.loggers_before is None:
                loop.loggers_before = state.logger_states(self.trainer)
            values = {s.step_name: s.last for s in self.trainer.logs.slots.values() if s.on_step and s.logger}
            rows.write(self.trainer.loggers, values, self.done[self.loader_idx], None)


def pulled(trainer: Trainer, stage: str, fetch: Fetch, loader_idx: int) -> Iterator[Any]:
    """What a step returns that takes its batches from the iterator itself, with the hooks around it."""
    batch_start = getattr(trainer.hooks, f"on_{stage}_batch_start")
    batch_end = getattr(trainer.hooks, f"on_{stage}_batch_end")
    step, pull = getattr(trainer.lightning_module, f"{stage}_step"), Pull(iter(fetch), loader_idx=loader_idx)
    for batch in pull.firsts():
        for hook in batch_start:
            hook(batch, pull.batch_idx, loader_idx)
        trainer.logs.batch = batch
        try:
            output = step(pull)
        except StopIteration:  # it asked for more than there are
            return
        for hook in batch_end:
            hook(output, batch, pull.batch_idx - 1, loader_idx)
        yield output


def step_call(trainer: Trainer, name: str, takes: str, several: bool) -> tuple[Callable[..., Any], bool]:
    """The step as a call with (batch, batch_idx), or, if the second value says so, with dataloader_idx too."""
    precision, step = trainer.precision_plugin, getattr(trainer.lightning_module, name)
    takes_loader = takes == "dataloader_idx" or (
        several and takes in ("optional_dataloader_idx", "dataloader_idx_only")
    )
    if takes == "batch":
        adapted: Callable[..., Any] = lambda batch, batch_idx: step(batch)  # noqa: E731
    elif takes == "dataloader_idx_only":
        adapted = lambda batch, batch_idx, dataloader_idx=0: step(batch, dataloader_idx)  # noqa: E731
    else:
        adapted = step
    if not precision.autocasts:
        return adapted, takes_loader

    def run_autocast(*arguments: Any) -> Any:
        with precision.forward_context():
            return adapted(*arguments)

    return run_autocast, takes_loader
