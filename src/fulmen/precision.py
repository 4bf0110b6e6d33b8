"""Number formats: 32, 64, 16-mixed, bf16-mixed, 16-true, bf16-true.

A step looks at three flags once and skips what it does not need: `autocasts` (run the step within `forward_context`),
`converts_input` (pass batches through `convert_input`) and `scales` (call `scale`, `unscale` and `step`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import LBFGS, Optimizer

from fulmen.errors import MisconfigurationException, nearest
from fulmen.tree import map_tensors
from fulmen.warn import rank_zero_warn

NAMES = ("32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")
SHORT = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}


class Precision:
    """Everything in 32 bits, and the interface of the others.

    >>> Trainer(plugins=MixedPrecision("16-mixed", "cuda", scaler=torch.amp.GradScaler("cuda", init_scale=1024.0)))
    """

    precision: str = "32-true"
    autocasts: bool = False
    converts_input: bool = False
    scales: bool = False
    scaler: torch.amp.GradScaler | None = None

    def convert_module(self, module: Module) -> Module:
        """The module with its parameters and buffers in this format."""
        return module

    def convert_input(self, data: Any) -> Any:
        """The batch with its floating-point tensors in this format."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """A context for one forward pass and its loss; a new one at each call, as autocast's cannot be nested."""
        return nullcontext()

    def init_context(self) -> AbstractContextManager[Any]:
        """A context in which modules and tensors are made in this format at once."""
        return nullcontext()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return loss

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the scale out of the gradients, before anything reads them; once between two steps."""

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer, whose gradients are there; False if it did not move as gradients were not finite."""
        optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class MixedPrecision(Precision):
    """32-bit weights; matrix products and convolutions of the forward pass in 16 bits.

    With "16-mixed" the loss is scaled, so that small gradients do not vanish, by `scaler` or a new one.
    """

    autocasts = True

    def __init__(self, precision: str, device: str, scaler: torch.amp.GradScaler | None = None) -> None:
        _check(precision, ("16-mixed", "bf16-mixed"))
        if precision == "bf16-mixed" and scaler is not None:
            raise ValueError("precision='bf16-mixed' does not scale the loss; leave out scaler, or take '16-mixed'.")
        self.precision = precision
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
        self.scaler = torch.amp.GradScaler(device) if scaler is None and precision == "16-mixed" else scaler
        self.scales = self.scaler is not None

    def forward_context(self) -> torch.autocast:
        # Without autocast's cache of converted weights, which would go stale when manual optimization steps within
        # training_step, and would add up the gradients of weights that are used twice in 16 bits.
        return torch.autocast(self.device, dtype=self.dtype, cache_enabled=False)

    def scale(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        if self.scaler is None:
            return super().step(optimizer)
        if isinstance(optimizer, LBFGS):
            raise MisconfigurationException(
                "LBFGS evaluates the loss several times a step, which precision='16-mixed' cannot scale. "
                "Use precision='bf16-mixed' or '32-true', or another optimizer."
            )
        moved: list[bool] = []
        hook = optimizer.register_step_post_hook(lambda *_: moved.append(True))  # tells without waiting for the device
        try:
            self.scaler.step(optimizer)
        finally:
            hook.remove()
        self.scaler.update()
        return bool(moved)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.scaler is not None and state_dict:
            self.scaler.load_state_dict(state_dict)


class _True(Precision):
    """Weights, batches and new tensors all in one type other than 32 bits."""

    autocasts = True
    converts_input = True
    dtype: torch.dtype

    def convert_module(self, module: Module) -> Module:
        return module.to(self.dtype)

    def convert_input(self, data: Any) -> Any:
        return map_tensors(self._convert, data)

    def _convert(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def forward_context(self) -> AbstractContextManager[Any]:
        return DefaultDtype(self.dtype)

    def init_context(self) -> AbstractContextManager[Any]:
        return DefaultDtype(self.dtype)


class DoublePrecision(_True):
    """Everything in 64 bits; complex tensors keep their type."""

    precision = "64-true"
    dtype = torch.float64


class HalfPrecision(_True):
    """Everything in 16 bits, weights and their updates too."""

    def __init__(self, precision: str = "16-true") -> None:
        _check(precision, ("16-true", "bf16-true"))
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bf16-true" else torch.float16


class DefaultDtype:
    """Within it, new floating-point tensors have another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *exc_info: object) -> None:
        torch.set_default_dtype(self.before)


def choose(precision: str | int | None, device_type: str, plugin: Precision | None = None) -> Precision:
    """What `Trainer(precision=..., plugins=...)` means on a device such as "cpu" or "cuda"."""
    if plugin is not None:
        if precision is not None:
            raise MisconfigurationException(
                f"precision={precision!r} and a {type(plugin).__name__} in plugins were passed; one of them is enough."
            )
        return plugin
    name = _spelled_out(precision)
    if name == "16-mixed" and device_type == "cpu":
        rank_zero_warn("precision='16-mixed' is not for the CPU; 'bf16-mixed' is used instead.")
        name = "bf16-mixed"
    if name == "64-true" and device_type == "mps":
        raise MisconfigurationException("precision='64-true' is not possible on MPS, which has no 64-bit numbers.")
    if name.endswith("-mixed"):
        return MixedPrecision(name, device_type)
    if name == "32-true":
        return Precision()
    return DoublePrecision() if name == "64-true" else HalfPrecision(name)


def _spelled_out(precision: str | int | None) -> str:
    word = "32-true" if precision is None else str(precision)
    if word in ("transformer-engine", "transformer-engine-float16"):
        raise MisconfigurationException(f"precision={precision!r} is not there yet; take 'bf16-mixed'.")
    if word in ("16", "bf16"):
        rank_zero_warn(f"precision={precision!r} is an old spelling of {SHORT[word]!r}; please write that.")
    name = SHORT.get(word, word)
    _check(precision, NAMES, name)
    return name


def _check(given: Any, valid: tuple[str, ...], name: str | None = None) -> None:
    name = given if name is None else name
    if name not in valid:
        raise ValueError(f"precision={given!r} must be one of {', '.join(valid)}.{nearest(name, valid)}")
