"""What old code calls on the base classes: `super().on_epoch_end()`, `self.manual_backward(loss, optimizer)`.

Today's classes get this when they are first reached by an old import name; today's calls stay what they are.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from torch import Tensor

from fulmen.callbacks import lambda_function
from fulmen.callbacks.base import Callback
from fulmen.checkpoint.hparams import HyperparametersMixin, class_only, load_module
from fulmen.compat import argparse
from fulmen.compat.attributes import beside_metrics
from fulmen.compat.finder import Finder
from fulmen.compat.hooks import CONSTRUCTED, ENDS, LOG_ARGUMENTS, MOMENTS, SIGNATURES, SPELLED, STEP_ENDS
from fulmen.compat.optimizers import split_batch
from fulmen.datamodule import LightningDataModule
from fulmen.hooks import CALLBACK_ONLY, SHARED
from fulmen.module import LightningModule
from fulmen.warn import warn_once

Method = Callable[..., Any]
ROWS = {
    **SIGNATURES,
    "toggle_optimizer": ("optimizer optimizer_idx",),
    "transfer_batch_to_device": ("batch device",),
}


def complete(_: Any = None) -> None:
    """Once: give the base classes what they had; the module, the callback and the datamodule together."""
    if hasattr(LightningModule.manual_backward, "__wrapped__"):
        return
    bases = {LightningModule: (SHARED, ENDS), Callback: (SHARED | CALLBACK_ONLY, CONSTRUCTED)}
    for base, (today, then) in bases.items():
        for name in today:
            _replace(base, name, _idle)
        for name in (*then, *(name for name, (_, _, owners) in MOMENTS.items() if base in owners)):
            setattr(base, name, _nothing)
    lambda_function.HOOKS += [n for n, (*_, owners) in MOMENTS.items() if Callback in owners] + [*CONSTRUCTED]
    _replace(Callback, "on_save_checkpoint", _own_state)
    for name, made in REPLACED.items():
        _replace(LightningModule, name, made)
    _replace(LightningDataModule, "__init__", _with_transforms)
    argparse.complete(LightningDataModule)
    module: dict[str, Any] = {
        **dict.fromkeys(STEP_ENDS, lambda self, output: output),
        "tbptt_split_batch": lambda self, batch, split_size: split_batch(batch, split_size),
        "load_from_checkpoint": class_only(load),
        "load_from_metrics": class_only(load_from_metrics),
        "get_progress_bar_dict": get_progress_bar_dict,
    }
    data = {"size": size, "on_save_checkpoint": _nothing, "on_load_checkpoint": _nothing}
    attached = property(lambda self: self.trainer is not None)
    data |= dict.fromkeys(("has_prepared_data", *(f"has_setup_{stage}" for stage in VERBS)), attached)
    for base, members in ((LightningModule, module), (LightningDataModule, data)):
        for name, member in members.items():
            setattr(base, name, member)
    HyperparametersMixin.hparams = HyperparametersMixin.hparams.setter(assign)


def _replace(base: type, name: str, made: Callable[[Method], Method]) -> None:
    """Put what is made of a method into the class that defines it, so that all still inherit the same."""
    owner = next(one for one in base.__mro__ if name in vars(one))
    setattr(owner, name, wraps(vars(owner)[name])(made(vars(owner)[name])))


def _nothing(self: Any, *args: Any, **kwargs: Any) -> None:
    """A hook that is no more."""


def _own_state(function: Method) -> Method:
    """What ModelCheckpoint and others gave back to their subclasses."""
    return lambda self, *args, **kwargs: self.state_dict()


def _idle(function: Method) -> Method:
    return lambda self, *args, **kwargs: None


def _adapted(function: Method) -> Method:
    _, *parameters = inspect.signature(function).parameters.values()
    today, rows = [p.name for p in parameters], [row.split() for row in ROWS[function.__name__]]
    required = {p.name for p in parameters if p.default is p.empty}

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(today) or not required <= {*today[: len(args)], *kwargs} <= {*today}:
            row = next((row for row in rows if len(row) >= len(args)), [])
            given = dict(zip(row, args, strict=False)) | {SPELLED.get(name, name): v for name, v in kwargs.items()}
            args, kwargs = (), {name: value for name, value in given.items() if name in today}
            if "dataloader_idx" in today:
                kwargs.setdefault("dataloader_idx", 0)
        return function(self, *args, **kwargs)

    return method


def _backward(function: Method) -> Method:
    """The loss is the first tensor; the optimizer, its index, the trainer or use_amp around it are left out."""

    def method(self: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(loss, Tensor) or any(hasattr(one, "param_groups") for one in args):
            loss, *rest = (one for one in (loss, *args) if isinstance(one, Tensor))
            args = tuple(rest)
            progress = self.trainer.progress  # a batch was one global step then, whatever stepped in it
            progress.steps = progress.stepped
        for name in ("optimizer", "optimizer_idx"):
            kwargs.pop(name, None)
        return function(self, loss, *args, **kwargs)

    return method


def _optimizer_step(function: Method) -> Method:
    """The oldest calls had no closure: the gradients are there, and are cleared behind the step."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        today = {*kwargs} <= {"epoch", "batch_idx", "optimizer", "optimizer_closure"}
        if today and len(args) <= 4 and all(callable(one) for one in args[3:]):
            return function(self, *args, **kwargs)
        given = {SPELLED.get(name, name): value for name, value in kwargs.items()}
        given = dict(zip(SIGNATURES["optimizer_step"][0].split(), args, strict=False)) | given
        closure = given.get("optimizer_closure") or given.get("second_order_closure")
        given["optimizer"].step(closure=closure)
        if closure is None:
            given["optimizer"].zero_grad()
        return None

    return method


def take_old_log_arguments() -> None:
    """Let `self.log` and `self.log_dict` be told what means nothing any more."""
    if not hasattr(LightningModule.log, "__wrapped__"):
        for name in ("log", "log_dict"):
            _replace(LightningModule, name, _without_old_arguments)


def _without_old_arguments(function: Method) -> Method:
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs.keys() & LOG_ARGUMENTS:
            warn_once(f"self.{function.__name__}({name}={kwargs.pop(name)!r}) can be left out today.")
        function(self, *args, **kwargs)

    return method


REPLACED: dict[str, Callable[[Method], Method]] = {
    "setup": _idle, "teardown": _idle, "backward": _backward, "manual_backward": _backward,
    "optimizer_step": _optimizer_step, "optimizer_zero_grad": _adapted, "configure_gradient_clipping": _adapted,
    "lr_scheduler_step": _adapted, "toggle_optimizer": _adapted, "transfer_batch_to_device": _adapted,
}  # fmt: skip


@wraps(load_module)
def load(
    cls: Any, *args: Any, tags_csv: Any = None, hparam_overrides: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    """`load_from_checkpoint` that knows `tags_csv` and `hparam_overrides`, and may be called on an instance."""
    if not isinstance(cls, type):
        warn_once(f"load_from_checkpoint on an instance is {type(cls).__name__}.load_from_checkpoint(...) today.")
        with suppress(TypeError):  # where the file cannot make the object, the instance can
            return load(type(cls), *args, tags_csv=tags_csv, hparam_overrides=hparam_overrides, **kwargs)
    file = {} if tags_csv is None else {"hparams_file": _tags(tags_csv)}
    return load_module(cls, *args, **{**kwargs, **file, **(hparam_overrides or {})})


def load_from_metrics(cls: Any, weights_path: Any, tags_csv: Any, map_location: Any = None) -> Any:
    """A module from its weights and the CSV file of its hyperparameters."""
    warn_once("load_from_metrics(weights_path, tags_csv) is load_from_checkpoint(path, hparams_file=...) today.")
    return load_module(cls, weights_path, map_location, hparams_file=_tags(tags_csv))


def _tags(path: Any) -> Any:
    """The file of hyperparameters: loggers of today write hparams.yaml where they once wrote meta_tags.csv."""
    today = os.path.join(os.path.dirname(path), "hparams.yaml")
    return today if os.path.exists(today) and not os.path.exists(path) else path


def get_progress_bar_dict(self: Any) -> dict[str, Any]:
    """What the bar shows beside the metrics, for modules that override it and call super()."""
    trainer = getattr(self, "_trainer", None)
    return {} if trainer is None else beside_metrics(trainer)


# ---- datamodules

VERBS = ("fit", "validate", "test", "predict")


def _with_transforms(function: Method) -> Method:
    """The constructor took transforms and the shape of a sample, which it kept for the user."""

    def init(
        self: Any, train_transforms: Any = None, val_transforms: Any = None, test_transforms: Any = None,
        dims: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        function(self, **kwargs)
        self.train_transforms, self.val_transforms = train_transforms, val_transforms
        self.test_transforms, self.dims = test_transforms, dims

    return init


def size(self: Any, dim: int | None = None) -> Any:
    """The shape of a sample, which the datamodule was told."""
    return self.dims if dim is None else self.dims[dim]


_assign_today = HyperparametersMixin.__dict__["hparams"].fset


def assign(self: Any, value: Any) -> None:
    """`self.hparams = ...` of anything with items, while the old import names are in use."""
    try:
        _assign_today(self, value)
    except AttributeError:
        if not any(isinstance(finder, Finder) for finder in sys.meta_path):
            raise
        if value is not None:
            self.save_hyperparameters(value)
    warn_once("self.hparams = hparams is self.save_hyperparameters(hparams) today.")
