"""What happens with one batch: automatic optimization (closure, backward, step) or manual."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from fulmen.errors import MisconfigurationException
from fulmen.hooks import HookTable, check_step, reported
from fulmen.loop.guard import Guard
from fulmen.loop.unprofiled import step, zero_grad
from fulmen.optim import LightningOptimizer, repeats_closure
from fulmen.tree import detach
from fulmen.values import on_host
from fulmen.warn import rank_zero_warn, warn_once

if TYPE_CHECKING:
    from fulmen.loop.progress import Progress
    from fulmen.module import LightningModule
    from fulmen.precision import Precision
    from fulmen.strategy.base import Strategy


class Step:
    """The parts that both kinds of optimization share; everything that can be known is settled here."""

    def __init__(
        self,
        module: LightningModule,
        optimizers: list[Optimizer],
        strategy: Strategy,
        precision: Precision,
        progress: Progress,
    ) -> None:
        self.module, self.strategy, self.precision, self.progress = module, strategy, precision, progress
        self.optimizers: list[Any] = [LightningOptimizer(o) for o in optimizers]
        for wrapped in self.optimizers:
            wrapped._run, wrapped._no_sync, wrapped._module = self.run_optimizer, strategy.no_sync, module
            wrapped.zero_grad = partial(zero_grad, wrapped.optimizer)
        self.takes = check_step(module, "training_step")
        self.special = self._special()
        self.listens = False  # whether any hook wants to see the step's output
        self.batch: Any = None
        self.batch_idx = 0
        self.is_last = False
        self.suspect = False  # whether gradients are looked at before the next optimizer step
        self.accumulate, self.carried, self.cuts = 1, 0, True
        self.stepping = True
        self.settings: tuple[Any, ...] = ()

    def watch(self, mode: str | None, rewind: Callable[[], str]) -> None:
        """What to do about NaN and infinity."""
        self.guard = Guard(self, mode, rewind)
        self.suspect = self.guard.every_step and not self.precision.scales

    def where(self) -> str:
        return f"epoch {self.progress.epoch}, batch {self.batch_idx}, global step {self.progress.steps}"

    def configure(self, accumulate: int, clip_val: Any, clip_algorithm: str | None) -> None:
        """What may change from epoch to epoch."""
        self.settings = accumulate, clip_val, clip_algorithm

    def carry(self, batches: int, cuts: bool) -> None:
        """Batches of earlier epochs whose gradients wait for a step, and whether the epoch's end brings one."""
        self.carried, self.cuts = batches, cuts
        self.stepping = not batches

    def attach(self, hooks: HookTable) -> None:
        """Take the hook table; again whenever it is rebuilt."""
        self.before_backward, self.after_backward = hooks.on_before_backward, hooks.on_after_backward
        self.before_step, self.own_backward = hooks.on_before_optimizer_step, hooks.backward
        self.listens = bool(hooks.on_train_batch_end or hooks.late_train_batch_end)

    def _special(self) -> Callable[[Any, int], Any] | None:
        """How to call training_step where a plain call of the module's method is not enough."""
        precision, takes_idx = self.precision, self.takes == "batch_idx"
        if not self.strategy.wraps and not precision.autocasts:
            return None
        call = self.strategy.wrap_step("training_step") if self.strategy.wraps else None

        def run(batch: Any, batch_idx: int) -> Any:
            function = self.module.training_step if call is None else call
            with precision.forward_context():
                return function(batch, batch_idx) if takes_idx else function(batch)

        return run

    def forward(self, batch: Any, batch_idx: int) -> Any:
        if self.special is not None:
            return self.special(batch, batch_idx)
        return (
            self.module.training_step(batch, batch_idx)
            if self.takes == "batch_idx"
            else self.module.training_step(batch)
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the loss, with the hooks around."""
        for hook in self.before_backward:
            hook(loss)
        if self.precision.scales:
            loss = self.precision.scale(loss)
        if self.own_backward:
            self.own_backward[0](loss, *args, **kwargs)
        else:
            self.strategy.backward(loss, *args, **kwargs)
        for hook in self.after_backward:
            hook()

    def run(self, batch: Any, batch_idx: int) -> Any:
        """Train on the batch; returns what on_train_batch_end is given as outputs."""
        raise NotImplementedError

    def run_optimizer(self, wrapped: LightningOptimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        """What LightningOptimizer.step does within this kind of optimization."""
        raise NotImplementedError


class AutomaticStep(Step):
    """training_step, zero_grad, backward, clip and step, in the order that the hooks' documentation gives."""

    def __init__(self, module: LightningModule, optimizers: list[Optimizer], *engine: Any) -> None:
        super().__init__(module, optimizers, *engine)
        self.optimizer: Any = optimizers[0] if optimizers else None
        self.wrapped: Any = self.optimizers[0] if optimizers else None  # the same as steps and hooks see it
        self.clip: tuple[Any, str | None] | None = None
        self.first = True
        self.output: Any = None
        self.checked = False

    def attach(self, hooks: HookTable) -> None:
        super().attach(hooks)
        self.before_zero_grad, self.own_zero_grad = hooks.on_before_zero_grad, hooks.optimizer_zero_grad
        self.own_clip, self.own_step = hooks.configure_gradient_clipping, hooks.optimizer_step
        self.direct = not self.own_step and self.optimizer is not None and not repeats_closure(self.optimizer)
        # Nothing beside the bare sequence was asked for: run() then needs no second frame.
        special = self.precision.scales or self.own_backward or self.strategy.wraps
        self.lean = self.direct and not special

    def configure(self, accumulate: int, clip_val: Any, clip_algorithm: str | None) -> None:
        super().configure(accumulate, clip_val, clip_algorithm)
        self.accumulate = accumulate
        self.clip = (clip_val, clip_algorithm) if self.own_clip or (clip_val or 0) > 0 else None
        self.first = self.stepping = True

    def run(self, batch: Any, batch_idx: int) -> Any:
        self.batch, self.batch_idx = batch, batch_idx
        if self.accumulate > 1:
            number = batch_idx + self.carried
            self.first = number % self.accumulate == 0
            self.stepping = (self.is_last and self.cuts) or (number + 1) % self.accumulate == 0
            if not self.stepping:
                with self.strategy.no_sync():
                    self.closure()
                return self.output
        if self.direct:
            self.closure()
            if self.lean and not self.suspect:
                for hook in self.before_step:
                    hook(self.optimizer)
                if self.clip is not None:
                    self.clip_gradients(self.optimizer)
                step(self.optimizer)
            else:
                self.finish(self.optimizer)
        elif self.optimizer is None:
            self.closure()
        else:
            self._documented()
        self.progress.steps += 1
        self.progress.stepped += 1
        return self.output

    def closure(self) -> Tensor | None:  # noqa: C901 - the way of every step, without a call that can be spared
        """Loss and gradients of the current batch."""
        if self.special is None and self.takes == "batch_idx":
            output = self.module.training_step(self.batch, self.batch_idx)
        else:
            output = self.forward(self.batch, self.batch_idx)
        loss = output if isinstance(output, Tensor) else self._loss_of(output)
        if not self.checked:
            self._check(loss)
        if self.first and self.optimizer is not None:
            for hook in self.before_zero_grad:
                hook(self.optimizer)
            if self.own_zero_grad:
                self.own_zero_grad[0](self.progress.epoch, self.batch_idx, self.optimizer)
            else:
                zero_grad(self.optimizer)
        if loss is None:
            self.output = {}
            self.strategy.skip_backward()
            return None
        if loss.is_cpu and not isfinite(on_host(loss)):  # nothing waits for a CPU tensor
            self.suspect = True
        elif not loss.is_cpu:
            self.guard.hold(loss.detach())
        if self.accumulate > 1:
            loss = loss / self.accumulate
        if self.listens:
            self.output = self._seen(output, loss.detach())
        if self.lean:
            for hook in self.before_backward:
                hook(loss)
            loss.backward()
            for hook in self.after_backward:
                hook()
        else:
            self.backward(loss)
        return loss

    def _seen(self, output: Any, loss: Tensor) -> dict[str, Any]:
        """The outputs that hooks see: the loss as it is differentiated, and what else the step returned."""
        return {**output, "loss": loss} if isinstance(output, dict) else {"loss": loss}

    def _documented(self) -> None:
        """Through the module's own optimizer_step, or an optimizer that calls its closure as it likes."""
        self.closed = False
        if self.own_step:
            self.own_step[0](self.progress.epoch, self.batch_idx, self.wrapped, self._whole_closure)
            if not self.closed:
                raise MisconfigurationException(
                    f"{type(self.module).__name__}.optimizer_step did not call its optimizer_closure, so training_step "
                    "did not run; write optimizer.step(closure=optimizer_closure), or optimizer_closure() where "
                    "nothing shall step."
                )
        else:
            self.wrapped.step(closure=self._whole_closure)

    def _whole_closure(self) -> Tensor | None:
        self.closed = True
        loss = self.closure()
        return None if loss is None else loss.detach()

    def run_optimizer(self, wrapped: LightningOptimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        optimizer = wrapped.optimizer
        if self.precision.scales or closure is None or not _takes_closure(type(optimizer)):
            loss = closure() if closure is not None else None
            self.finish(optimizer, **kwargs)
            return loss

        def evaluate() -> Any:
            loss = closure()
            self._before(optimizer)
            if self.suspect:
                self.guard.leaves_out()
            return loss

        return step(optimizer, closure=evaluate, **kwargs)

    def _before(self, optimizer: Optimizer) -> None:
        if self.suspect:
            self.guard.before()
        for hook in self.before_step:
            hook(optimizer)
        if self.clip is not None:
            self.clip_gradients(optimizer)

    def finish(self, optimizer: Optimizer, **kwargs: Any) -> None:
        """Unscale, hooks, clip, step."""
        if self.precision.scales:
            self.precision.unscale(optimizer)
        self._before(optimizer)
        if self.suspect and not self.precision.scales and self.guard.leaves_out():
            return
        self.precision.step(optimizer) if self.precision.scales else step(optimizer, **kwargs)

    def clip_gradients(self, optimizer: Optimizer) -> None:
        assert self.clip is not None
        value, algorithm = self.clip
        configure = self.own_clip[0] if self.own_clip else self.module.configure_gradient_clipping
        configure(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)

    def _loss_of(self, output: Any) -> Tensor | None:
        if output is None:
            warn_once("training_step returned None: its batch is skipped. If that was not meant, return the loss.")
            return None
        if isinstance(output, dict):
            if "loss" not in output:
                raise MisconfigurationException(
                    f"training_step returned a dict with the keys {list(output)}; it needs the key 'loss'."
                )
            if "log" in output or "progress_bar" in output:
                reported(self.module, output)
            return output["loss"]
        raise MisconfigurationException(
            f"training_step returned a {type(output).__name__}; return the loss (a tensor), a dict with the key "
            "'loss', or None."
        )

    def _check(self, loss: Tensor | None) -> None:
        """Once, on the first loss: can it be trained on?"""
        if loss is None:
            return
        self.checked = True
        if not isinstance(loss, Tensor):
            raise MisconfigurationException(f"training_step's loss is a {type(loss).__name__}; it must be a tensor.")
        if loss.is_complex():
            raise MisconfigurationException("training_step's loss is complex; return a real one, such as loss.abs().")
        if loss.numel() != 1:
            raise MisconfigurationException(
                f"training_step's loss has the shape {tuple(loss.shape)}; it must be a scalar: reduce it with "
                ".mean() or .sum()."
            )
        if not loss.requires_grad and self.optimizer is not None:
            raise MisconfigurationException(
                "training_step's loss does not depend on a parameter that requires_grad: was it detached (.detach(), "
                ".item(), torch.no_grad()), or is every layer frozen?"
            )


class ManualStep(Step):
    """training_step does it all; its optimizers' steps are counted here."""

    optimizer = None

    def configure(self, accumulate: int, clip_val: Any, clip_algorithm: str | None) -> None:
        super().configure(accumulate, clip_val, clip_algorithm)
        for name, value in (("gradient_clip_val", clip_val), ("accumulate_grad_batches", accumulate - 1)):
            if value:
                raise MisconfigurationException(
                    f"{name} cannot be used with manual optimization: do it in training_step (self.clip_gradients, "
                    "or step every N batches), or set self.automatic_optimization = True."
                )

    def run(self, batch: Any, batch_idx: int) -> Any:
        self.batch, self.batch_idx = batch, batch_idx
        output = self.forward(batch, batch_idx)
        self.progress.stepped += 1
        if not self.listens:
            return None
        if isinstance(output, dict):
            return detach(output)
        return {"loss": output.detach()} if isinstance(output, Tensor) else {}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not loss.is_cpu:
            self.guard.hold(loss.detach().mean())
        elif loss.is_cpu and loss.numel() == 1 and not isfinite(on_host(loss)):
            self.suspect = True
        super().backward(loss, *args, **kwargs)

    def run_optimizer(self, wrapped: LightningOptimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        optimizer = wrapped.optimizer
        if self.precision.scales:
            loss = closure() if closure is not None else None
            self.precision.unscale(optimizer)
            self._hooks(optimizer)
            self.precision.step(optimizer)
        elif closure is None:
            if self.suspect:
                self.guard.before()
            self._hooks(optimizer)
            loss = None if self.suspect and self.guard.leaves_out() else step(optimizer, **kwargs)
        else:

            def evaluate() -> Any:
                value = closure()
                self._hooks(optimizer)
                return value

            loss = step(optimizer, closure=evaluate, **kwargs)
        self.progress.steps += 1
        return loss

    def _hooks(self, optimizer: Optimizer) -> None:
        for hook in self.before_step:
            hook(optimizer)

    def warn_if_idle(self) -> None:
        """After the first epoch: did any optimizer step?"""
        if self.optimizers and self.progress.steps == 0:
            rank_zero_warn(
                "Manual optimization: no optimizer stepped in the whole epoch. Call self.optimizers(), "
                "self.manual_backward(loss) and optimizer.step() in training_step, or set automatic_optimization = "
                "True."
            )


@cache
def _takes_closure(kind: type[Optimizer]) -> bool:
    try:
        return "closure" in inspect.signature(kind.step).parameters
    except (TypeError, ValueError):
        return True
