"""NaN and infinity: noticed before they reach the weights or a checkpoint, with the name of what went bad first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fulmen import tree
from fulmen.errors import NonFiniteError
from fulmen.seed import isolate_rng
from fulmen.values import on_host
from fulmen.warn import rank_zero_warn, warn_once

if TYPE_CHECKING:
    from fulmen.loop.step import Step

LOOK_EVERY = 64
"""Losses on a device are looked at in groups of so many, when the device is long done with them."""
MOST_REWINDS = 10
"""More often no run goes back to the same checkpoint: its trouble is not in the batches."""
_FINITE: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
"""What is not trained and was finite when the run began: a mask of -inf may stay what it is."""


class Guard:
    """Watches the losses of a run, and if it is asked to (`every_step`) the gradients before each optimizer step."""

    def __init__(self, step: Step, mode: str | None, rewind: Callable[[], str]) -> None:
        self.step, self.mode, self.rewind = step, mode, rewind
        self.every_step = mode in ("stop", "skip", "rewind")
        self.bad: str | None = None  # a gradient that was not finite before hooks and clipping had their say
        self.held: list[Tensor] = []  # the losses since the last look, where reading would wait for a device
        self.earlier: tuple[Tensor, Any, int] | None = None  # those before, on their way to the host
        self.rewinds: dict[str, int] = {}
        self.told = False
        held = [(name, tensor) for name, tensor in _untrained(step.module) if tensor.numel()]
        sound = not held or _square_is_finite([tensor for _, tensor in held])
        _FINITE[step.module] = {name for name, tensor in held if sound or _first([(name, tensor)]) is None}
        # What a forward pass changes, as it was behind the last good one
        self.buffers = [b for b in step.module.buffers() if b.is_floating_point()] if mode == "skip" else []
        self.good = [buffer.clone() for buffer in self.buffers]

    # ---- losses that are still being computed

    def hold(self, loss: Tensor) -> None:
        self.held.append(loss)
        if len(self.held) >= LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Look at the group before this one, and send this one off."""
        held, self.held = self.held, []
        earlier, self.earlier = self.earlier, None
        if held:
            self.earlier = (*_sent(torch.stack(held).float()), self.step.progress.batches)
        if earlier is not None:
            losses, event, behind = earlier
            if event is not None:
                event.synchronize()
            bad = (~torch.isfinite(losses)).nonzero()
            if len(bad):
                self._late(behind - len(losses) + int(bad[0]))

    def settle(self) -> None:
        """At the end of an epoch, where values are read anyway: look at all that is held."""
        self.look()
        self.look()

    def _late(self, batches: int) -> None:
        name = bad_weight(self.step.module)
        message = f"The loss of batch {batches}, counted over all epochs, was NaN or infinite"
        if self.mode == "warn" or name is None:
            warn_once(f"{message}; {'training goes on' if name else 'the weights are finite, and training goes on'}.")
            return
        raise NonFiniteError(
            f"{message}, and {name} is by now (batch {self.step.progress.batches}); no checkpoint holds it. On a GPU "
            "losses are looked at some steps later, so that no step waits: Trainer(nonfinite='stop', 'skip' or "
            "'rewind') looks at the gradients before each step."
        )

    # ---- before an optimizer step

    def before(self) -> None:
        """Before hooks and clipping, which spread what is bad to all gradients."""
        self.bad = bad_gradient(self.step.module)
        if self.bad is None:
            self._copy(self.good, self.buffers)

    def _copy(self, targets: list[Tensor], sources: list[Tensor]) -> None:
        with torch.no_grad():
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)

    def leaves_out(self) -> bool:
        """Whether to leave out this step; raises where the run is to stop."""
        self.step.suspect = self.every_step
        if self.bad is None or bad_gradient(self.step.module) is None:
            if not self.every_step:
                warn_once("A loss was NaN or infinite, but its gradients are finite: training goes on.")
            return False
        message = f"NaN or infinite values at {self.step.where()}: {self._cause()}"
        if self.mode in (None, "stop"):
            raise NonFiniteError(
                f"{message}. Training stopped before this step touched the weights; Trainer(nonfinite='skip') leaves "
                "such steps out, 'rewind' takes the last checkpoint's weights instead, 'warn' goes on."
            )
        if self.mode == "warn":
            if not self.told:
                rank_zero_warn(f"{message}; training goes on, and nothing more is said of it.")
            self.told = True
            return False
        self._forget_gradients()
        if self.mode == "skip":
            self._copy(self.buffers, self.good)
            rank_zero_warn(f"{message}; this step is left out.")
            return True
        path = self.rewind()
        self.rewinds[path] = self.rewinds.get(path, 0) + 1
        if self.rewinds[path] > MOST_REWINDS:
            raise NonFiniteError(f"{message}, as often before since {path} was saved: it is not a matter of batches.")
        rank_zero_warn(f"{message}. Back to the weights of {path}; the batches since then are left out.")
        return True

    def _forget_gradients(self) -> None:
        for parameter in self.step.module.parameters():
            parameter.grad = None

    def _cause(self) -> str:
        step, module = self.step, self.step.module
        if holds_bad(step.batch):
            return f"the batch itself holds some; the first gradient is that of {self.bad}"
        weight = _first(_trained(module))
        if weight is not None:
            return f"{weight} held some before this step; the first gradient is that of {self.bad}"
        stops = self.mode in (None, "stop") and not step.strategy.wraps
        first = first_bad_output(step) if stops else None
        if first is not None:
            return f"first in the output of {first}; the first gradient is that of {self.bad}"
        return f"first in the gradient of {self.bad}"


def _sent(values: Tensor) -> tuple[Tensor, Any]:
    """A copy that is on its way to the host, and what says that it is there."""
    if values.device.type != "cuda":
        return values.cpu(), None
    there = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return there, event


def holds_bad(data: Any) -> bool:
    """Whether any tensor within is not finite."""
    found: list[Tensor] = []
    tree.map_tensors(lambda tensor: found.append(tensor) or tensor, data)
    return _first(("", tensor) for tensor in found) is not None


def first_bad_output(step: Step) -> str | None:
    """Run the step once more, without gradients and traces, to see whose output goes bad first."""
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if not found and module is not step.module and holds_bad(output):
            found.append(f"{name} ({type(module).__name__})")

    with observed(step.module, look), isolate_rng(), torch.no_grad():
        try:
            step.forward(step.batch, step.batch_idx)
        except Exception:  # it has failed differently now: there is nothing to tell
            return None
    return found[0] if found else None


@contextmanager
def observed(module: nn.Module, look: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Within it `look` sees each part's output, the innermost first; nothing is logged, buffers stay as they are."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    silent = {"log": _nothing, "log_dict": _nothing}
    before = {name: module.__dict__[name] for name in silent if name in module.__dict__}
    module.__dict__.update(silent)
    handles = [
        part.register_forward_hook(lambda part, _, output, name=name: look(name, part, output))
        for name, part in module.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name in silent:
            del module.__dict__[name]
        module.__dict__.update(before)
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def bad_gradient(module: nn.Module) -> str | None:
    """Name of the first parameter whose gradient is not finite."""
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    return None if _square_is_finite([gradient for _, gradient in named]) else _first(named)


def bad_weight(module: nn.Module) -> str | None:
    """Name of the first parameter or buffer that is not finite, but was, or is trained."""
    finite = _FINITE.get(module)
    held = [(name, tensor) for name, tensor in _untrained(module) if finite is None or name in finite]
    named = [(name, tensor) for name, tensor in (*_trained(module), *held) if tensor.numel()]
    return None if not named or _square_is_finite([tensor for _, tensor in named]) else _first(named)


def _trained(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in _floating(module) if tensor.requires_grad]


def _untrained(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in _floating(module) if not tensor.requires_grad]


def _floating(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    tensors = (*module.named_parameters(), *module.named_buffers())
    return ((name, tensor) for name, tensor in tensors if tensor.is_floating_point() and not is_lazy(tensor))


def _square_is_finite(tensors: list[Tensor]) -> bool:
    """Read in one go: a sum of squares that are not all finite is not finite; one of large values may be so, too."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(_stored(tensor))
    norms = [torch.stack(torch._foreach_norm(group)).float().sum() for group in groups.values()]
    return all(math.isfinite(on_host(norm)) for norm in norms)


def _first(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(_stored(tensor)).all()):
            return name
    return None


def _stored(tensor: Tensor) -> Tensor:
    """The numbers that a tensor holds; a sparse one may hold several for one place."""
    tensor = tensor.detach()
    return tensor._values() if tensor.is_sparse else tensor


def check_weights(module: nn.Module, doing: str) -> None:
    """Before a checkpoint is written: raise if the weights are not finite any more."""
    name = bad_weight(module)
    if name is not None:
        raise NonFiniteError(
            f"{name} holds NaN or infinite values, so {doing} was stopped and older checkpoints are untouched. Look "
            "at the last batches and the learning rate; Trainer(detect_anomaly=True) finds the operation."
        )


def is_anomaly(error: RuntimeError) -> bool:
    """Whether it is what torch raises in a backward pass under detect_anomaly."""
    return "returned nan values" in str(error)


def located(error: RuntimeError, where: str) -> NonFiniteError:
    """That error with the place in the run."""
    return NonFiniteError(
        f"{error} That was in the backward pass of {where}; the line of the forward pass is shown above."
    )
