"""training_step with `optimizer_idx` or `hiddens`, under automatic optimization; optimizer_step of other days."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from fulmen.compat import devices
from fulmen.compat.hooks import SIGNATURES
from fulmen.errors import MisconfigurationException
from fulmen.hooks import HookTable, accepts, positional
from fulmen.loop.step import AutomaticStep, ManualStep, Step
from fulmen.tree import detach
from fulmen.warn import warn_once

Kind = inspect.Parameter


def step_for(kind: type[Step], module: Any, count: int, frequencies: list[int]) -> Callable[..., Step]:
    """The kind of step for a training_step that wants more than a batch and its index."""
    if issubclass(kind, ManualStep):
        return ManualStepWithMore
    step = inspect.signature(module.training_step).parameters.values()
    indexed = any("hidden" not in name for name in positional(module.training_step)[2:])
    if count > 1 and not indexed and not any(p.kind is p.VAR_POSITIONAL for p in step):
        raise MisconfigurationException(
            f"configure_optimizers returned {count} optimizers, and automatic optimization steps one. Set "
            "self.automatic_optimization = False and step them in training_step (manual optimization)."
        )
    if frequencies and len(frequencies) != count:
        raise MisconfigurationException(
            f"configure_optimizers gave the frequencies {frequencies} to {count} optimizers; give each one or none."
        )
    if count > 1:
        warn_once(
            "training_step(batch, batch_idx, optimizer_idx) is manual optimization today: "
            "self.automatic_optimization = False, and self.manual_backward(loss) and optimizer.step() in training_step."
        )
    return partial(SeveralOptimizers, frequencies=frequencies)


class More(Step):
    """Calls training_step with the index of the optimizer and the hidden state, where it asks for them."""

    index = 0
    hiddens: Any = None
    """What training_step returned under "hiddens" for the part of the sequence before, detached."""

    def _special(self) -> Callable[[Any, int], Any]:
        call = self.strategy.wrap_step("training_step") if self.strategy.wraps else None
        parameters = list(inspect.signature(self.module.training_step).parameters.values())
        asked = self._asked(parameters)

        def run(batch: Any, batch_idx: int) -> Any:
            function = self.module.training_step if call is None else call
            with self.precision.forward_context():
                output = function(batch, batch_idx, *(getattr(self, name) for name in asked))
            if isinstance(output, dict) and "hiddens" in output:
                self.hiddens = detach(output["hiddens"])
            return output

        return run

    def _asked(self, parameters: list[Kind]) -> list[str]:
        """Which of ours go to the parameters behind the batch and its index, in their order."""
        several = len(self.optimizers) > 1
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return ["index"] if several else []
        asked = []
        for parameter in parameters[2:]:
            if "hidden" in parameter.name:
                asked.append("hiddens")
            elif several or parameter.default is parameter.empty:
                asked.append("index")
            else:
                break
        return asked


class ManualStepWithMore(More, ManualStep):
    """Manual optimization with a training_step that has an argument for the optimizer's index; it is always 0.

    As long as there was one, a batch was one global step, whatever stepped in it.
    """

    def run(self, batch: Any, batch_idx: int) -> Any:
        output = super().run(batch, batch_idx)
        self.progress.steps = self.progress.stepped
        return output

    def run_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        steps = self.progress.steps
        loss = super().run_optimizer(*args, **kwargs)
        self.progress.steps = steps
        return loss


class SeveralOptimizers(More, AutomaticStep):
    """One training_step, backward and step for each optimizer in turn, with only its parameters requiring gradients.

    With frequencies [5, 1], the first optimizer has five batches, then the second has one. A sequence that is cut
    (`truncated_bptt_steps`) goes through all of this part by part. However many optimizers step, a batch counts as
    one global step; a module with lr_scheduler_step, or a program that says devices= and never gpus=, or that imports
    what came with 1.6 or later, is of the time in which each optimizer's step counted.
    """

    def __init__(self, *args: Any, frequencies: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ends = list(accumulate(frequencies))
        self.ran: list[tuple[int, Any]] = []
        """Which optimizers had a turn in this batch, with the output of each."""

    def attach(self, hooks: HookTable) -> None:
        self.ways: list[tuple[Any, Any, bool, bool]] = []
        for wrapped in self.optimizers:
            self.optimizer = wrapped.optimizer
            super().attach(hooks)
            self.ways.append((wrapped, wrapped.optimizer, self.direct, self.lean))
        if not self.optimizers:
            super().attach(hooks)
        release = devices.release(self.module.trainer)
        self.each_counts, self.begins_anew = bool(hooks.lr_scheduler_step) or release >= (1, 6), release >= (1, 4)
        self.split_size = getattr(self.module, "truncated_bptt_steps", None)
        self.toggles_with = 2 if accepts(self.module.toggle_optimizer, 2) else 1
        self.untoggles_by_index = positional(self.module.untoggle_optimizer)[:1] == ["optimizer_idx"]

    def run(self, batch: Any, batch_idx: int) -> Any:
        progress = self.progress
        before = progress.steps, progress.stepped
        self.hiddens, self.ran = None, []
        for part in self._parts(batch):
            for index in self._due():
                self.ran.append((index, self._turn(index, part, batch_idx)))
                progress.steps, progress.stepped = progress.steps if self.each_counts else before[0], before[1]
        progress.steps += self.stepping and not self.each_counts
        progress.stepped += self.stepping
        outputs = [output for _, output in self.ran]
        return outputs if len(outputs) > 1 else outputs[0]

    def _turn(self, index: int, batch: Any, batch_idx: int) -> Any:
        if len(self.optimizers) < 2:
            return super().run(batch, batch_idx)
        self.index = index
        self.wrapped, self.optimizer, self.direct, self.lean = self.ways[index]
        self.module.toggle_optimizer(*(self.wrapped, index)[: self.toggles_with])
        try:
            return super().run(batch, batch_idx)
        finally:
            self.module.untoggle_optimizer(index if self.untoggles_by_index else self.wrapped)

    def _due(self) -> Sequence[int]:
        """The optimizers whose turn it is; frequencies count over the epochs, from 1.4 on in each."""
        if not self.ends:
            return range(max(1, len(self.optimizers)))
        place = (self.progress.batch if self.begins_anew else self.progress.batches) % self.ends[-1]
        return [next(i for i, end in enumerate(self.ends) if place < end)]

    def _parts(self, batch: Any) -> Sequence[Any]:
        if not self.split_size:
            return [batch]
        return getattr(self.module, "tbptt_split_batch", split_batch)(batch, self.split_size)


def split_batch(batch: Any, split_size: int) -> list[Any]:
    """Parts of `split_size` time steps: tensors are cut in their second dimension, lists in their items."""
    parts = [batch] if isinstance(batch, Tensor) else list(batch)
    lengths = {len(part[0]) for part in parts if isinstance(part, (Tensor, list, tuple))}
    if len(lengths) != 1:
        raise MisconfigurationException(
            f"truncated_bptt_steps: the parts of the batch have {sorted(lengths)} time steps; they must have the same."
        )

    def cut(part: Any, start: int) -> Any:
        if isinstance(part, Tensor):
            return part[:, start : start + split_size]
        return [row[start : start + split_size] for row in part] if isinstance(part, (list, tuple)) else part

    starts = range(0, lengths.pop(), split_size)
    found = [[cut(part, start) for part in parts] for start in starts]
    return [one[0] for one in found] if isinstance(batch, Tensor) else found


def adapt_step(
    module: Any, hook: Callable[..., Any], wanted: list[str], by_name: Callable[..., Any]
) -> Callable[..., Any]:
    """optimizer_step with older arguments.

    The oldest came without a closure, after the backward pass, and cleared the gradients itself; that is told by
    `second_order_closure`, or by no place for a closure at all. From `using_native_amp` on, the trainer cleared them.
    """
    kinds = {p.kind for p in inspect.signature(hook).parameters.values()}
    second_order = "second_order_closure" in wanted
    clears = "using_native_amp" not in wanted
    if "optimizer_closure" in wanted:
        return by_name(hook, wanted)
    if not second_order and Kind.VAR_POSITIONAL in kinds:
        return by_name(hook, [*wanted, "optimizer_closure"])
    if not second_order and Kind.VAR_KEYWORD in kinds:  # 1.0 gave all by name
        first = len(wanted)
        named = [name for name in SIGNATURES["optimizer_step"][0].split() if name not in wanted]
        return by_name(
            lambda *args: hook(*args[:first], **dict(zip(named, args[first:], strict=True))), [*wanted, *named]
        )
    plain = by_name(hook, wanted)
    closed = by_name(hook, ["optimizer_closure" if name == "second_order_closure" else name for name in wanted])

    def optimizer_step(_: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Callable[[], Any]) -> None:
        if second_order and isinstance(optimizer, torch.optim.LBFGS):
            closed(epoch, batch_idx, optimizer, closure)
            return
        if clears:
            module.trainer.step.first = False  # the gradients stay until the hook clears them
        if closure() is not None:
            plain(epoch, batch_idx, optimizer, None)

    return MethodType(optimizer_step, module)
