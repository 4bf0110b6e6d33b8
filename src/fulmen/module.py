"""LightningModule: an nn.Module that says how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fulmen.checkpoint.hparams import HyperparametersMixin, class_only, load_module
from fulmen.export import Exports
from fulmen.lifecycle import CheckpointHooks, DataHooks, ModelHooks
from fulmen.optim import parameters

if TYPE_CHECKING:
    from fulmen.logs import LogStore
    from fulmen.trainer import Trainer

OUTSIDE = (
    "is not attached to a Trainer. A trainer is there during fit, validate, test and predict only: use it in setup() "
    "or a later hook, not in __init__."
)

LEFT_BEHIND = ("_trainer", "_fabric", "_logs", "log", "_compiled_call_impl")
"""Attributes that copies and pickles of a module do without."""


class ReadOnly(property):
    """A property whose assignment says what to do instead."""

    def __set__(self, module: Any, value: Any) -> None:
        name = f"{type(module).__name__}.{self.fget.__name__}"  # pyright: ignore (each has a getter)
        raise AttributeError(f"{name} is only read, and cannot be assigned: give your own value another name.")


class LightningModule(HyperparametersMixin, ModelHooks, DataHooks, CheckpointHooks, Exports, nn.Module):
    """A model with its steps, its optimizers and, if you like, its data.

    class Classifier(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(64, 10)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)
    """

    prepare_data_per_node = True
    allow_zero_length_dataloader_with_multiple_devices = False
    _trainer = _fabric = _logs = _example = _strict = None
    _automatic = True
    if TYPE_CHECKING:  # torch.jit reads a class's annotations, and cannot make sense of these
        _trainer: Trainer | None
        _fabric: Any
        _logs: LogStore | None
        _example: Any
        _strict: bool | None
    __jit_unused_properties__ = [  # noqa: RUF012 - by the name of ClassVar it would have an annotation too
        "trainer", "fabric", "logger", "loggers", "current_epoch", "global_step", "global_rank", "local_rank", "device",
        "dtype", "on_gpu", "example_input_array", "hparams", "hparams_initial", "strict_loading", "device_mesh",
        "automatic_optimization",
    ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        torch._C._log_api_usage_once("fulmen.LightningModule")

    # ---- what surrounds the module

    @property
    def trainer(self) -> Trainer:
        trainer = self.__dict__.get("_trainer")
        if trainer is None:
            raise RuntimeError(f"self.trainer: {type(self).__name__} {OUTSIDE}")
        return trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        for child in self.children():
            if isinstance(child, LightningModule):
                child.trainer = trainer
        self.__dict__["_trainer"] = trainer

    @property
    def fabric(self) -> Any:
        return self.__dict__.get("_fabric")

    @fabric.setter
    def fabric(self, fabric: Any) -> None:
        self.__dict__["_fabric"] = fabric

    @ReadOnly
    def logger(self) -> Any:
        """The first logger, or None."""
        return self._trainer.logger if self._trainer is not None else None

    @ReadOnly
    def loggers(self) -> list[Any]:
        return self._trainer.loggers if self._trainer is not None else []

    @ReadOnly
    def current_epoch(self) -> int:
        """The running epoch, counted from 0."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @ReadOnly
    def global_step(self) -> int:
        """Optimizer steps so far, over all optimizers and epochs."""
        return self._trainer.global_step if self._trainer is not None else 0

    @ReadOnly
    def global_rank(self) -> int:
        return self._trainer.global_rank if self._trainer is not None else 0

    @ReadOnly
    def local_rank(self) -> int:
        return self._trainer.local_rank if self._trainer is not None else 0

    @ReadOnly
    def device(self) -> torch.device:
        """Where the parameters are; new tensors of a step belong there."""
        found = self.__dict__.get("_device")
        if found is None:
            first = next(self.parameters(), None)
            first = next(self.buffers(), None) if first is None else first
            found = torch.device("cpu") if first is None else first.device
            self.__dict__["_device"] = found
        return found

    @ReadOnly
    def dtype(self) -> torch.dtype:
        found = self.__dict__.get("_dtype")
        if found is None:
            floats = (p.dtype for p in self.parameters() if p.is_floating_point())
            found = self.__dict__["_dtype"] = next(floats, torch.get_default_dtype())
        return found

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LightningModule:
        self.__dict__.pop("_device", None)
        self.__dict__.pop("_dtype", None)
        return super()._apply(fn, recurse)

    @ReadOnly
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @ReadOnly
    def device_mesh(self) -> Any:
        """The mesh of a strategy that shards over several dimensions, else None."""
        return getattr(self._trainer.strategy, "device_mesh", None) if self._trainer is not None else None

    @property
    def example_input_array(self) -> Any:
        """An input of forward (a tensor, tuple or dict), for summaries, graphs and exports."""
        return self._example

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self.__dict__["_example"] = example

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint must have exactly this module's keys."""
        return True if self._strict is None else self._strict

    @strict_loading.setter
    def strict_loading(self, strict: bool) -> None:
        self.__dict__["_strict"] = strict

    @property
    def automatic_optimization(self) -> bool:
        """False: training_step itself calls optimizers(), manual_backward and step."""
        return self._automatic

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        self.__dict__["_automatic"] = automatic

    def __getattr__(self, name: str) -> Any:
        """As nn.Module's, in one frame; a miss inside a property is reported under the name that is missing."""
        own = self.__dict__
        for part in ("_parameters", "_modules", "_buffers"):
            if part in own and name in own[part]:
                return own[part][name]
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)  # it raised AttributeError: again, so that its own message is seen
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.")
        from fulmen.compat.attributes import module_attribute

        return module_attribute(self, name)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of a module leave the trainer behind."""
        return {k: v for k, v in self.__dict__.items() if k not in LEFT_BEHIND}

    # ---- logging

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a number, a tensor of one element or a torchmetrics object under `name`.

        Nothing is copied to the host here; it is when a logger, the progress bar or a callback reads.

        Args:
            name: the key; with both on_step and on_epoch loggers see `name_step` and `name_epoch`.
            value: what to log; several values of an epoch are brought together by `reduce_fx`.
            prog_bar: show it in the progress bar.
            logger: send it to the loggers (default: yes).
            on_step: log each step's value (default: in training steps).
            on_epoch: log the reduced value of the epoch (default: everywhere else).
            reduce_fx: "mean", "sum", "min", "max" or a function of the stacked values.
            enable_graph: keep the value's graph.
            sync_dist: reduce over ranks too; then every rank must log the name.
            sync_dist_group: the group of ranks to reduce over.
            add_dataloader_idx: with several loaders, append `/dataloader_idx_N`.
            batch_size: the weight in the epoch's mean (default: first dimension of the batch).
            metric_attribute: name of the attribute that holds the torchmetrics object.
            rank_zero_only: log on rank zero only.
        """
        store = self._logs
        if store is None:
            return self._log_unattached(name)
        slot = store.slots.get(name)
        rule = (prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx, enable_graph,
                metric_attribute, rank_zero_only)  # fmt: skip
        if slot is None or slot.rule != rule:
            slot = store.open(name, value, rule)
        slot.put(value, batch_size)
        return None

    def _log_unattached(self, name: str) -> None:
        from fulmen.warn import warn_once

        if self._fabric is not None:
            raise RuntimeError(f"self.log({name!r}, ...) outside a Trainer: use fabric.log.")
        warn_once(f"self.log({name!r}, ...) does nothing: {type(self).__name__} {OUTSIDE}")

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log each item of a dict or a torchmetrics MetricCollection; the options are those of `log`."""
        if not hasattr(dictionary, "items"):
            raise TypeError(f"self.log_dict({dictionary!r}): it takes a dict of names and values.")
        for name, value in dictionary.items():
            self.log(
                name, value, prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
                add_dataloader_idx, batch_size, None, rank_zero_only,
            )  # fmt: skip

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print from one process only, beside the progress bar."""
        if self._trainer is None or self._trainer.is_global_zero:
            bar = None if self._trainer is None else self._trainer.progress_bar_callback
            print(*args, **kwargs) if bar is None else bar.print(*args, **kwargs)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors and numbers of all ranks, stacked in a new first dimension."""
        from fulmen.collection import convert_to_tensors

        return self.trainer.strategy.gather(convert_to_tensors(data, self.device), group, sync_grads)

    # ---- optimization

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of them; `use_pl_optimizer=False` gives the bare ones, whose steps don't count."""
        found: list[Any] = self.trainer.step.optimizers if use_pl_optimizer else self.trainer.optimizers
        return found[0] if len(found) == 1 else list(found)

    def lr_schedulers(self) -> Any:
        """The scheduler, the list of them, or None."""
        found = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return found[0] if len(found) == 1 else found or None

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """loss.backward() for manual optimization, with the precision's and the strategy's part of it."""
        if self._fabric is not None:
            self._fabric.backward(loss, *args, **kwargs)
        elif self.automatic_optimization:
            from fulmen.errors import MisconfigurationException

            raise MisconfigurationException(
                "manual_backward is for manual optimization: set self.automatic_optimization = False in __init__."
            )
        else:
            self.trainer.step.backward(loss, *args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Override to change how gradients are computed."""
        loss.backward(*args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Override to change when or how an optimizer steps; the closure runs training_step and backward."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Override for schedulers whose step() wants other arguments."""
        scheduler.step() if metric is None else scheduler.step(metric)

    def clip_gradients(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of the optimizer's parameters, by "norm" (the default) or "value"."""
        value = self._agreed("gradient_clip_val", gradient_clip_val)
        algorithm = str(self._agreed("gradient_clip_algorithm", gradient_clip_algorithm) or "norm").lower()
        if algorithm not in ("norm", "value"):
            raise ValueError(f"gradient_clip_algorithm={algorithm!r} is not valid: allowed are 'norm' and 'value'.")
        if value and value > 0:
            self.trainer.strategy.clip(parameters(optimizer), value, algorithm)

    def _agreed(self, name: str, given: Any) -> Any:
        """A setting that the module and the Trainer may both make, but not differently."""
        from fulmen.errors import MisconfigurationException

        asked = getattr(self.trainer, name)
        if given is None or asked is None or given == asked:
            return asked if given is None else given
        raise MisconfigurationException(
            f"clip_gradients was called with {name}={given!r}, but the Trainer has {name}={asked!r}; give it in one "
            "place."
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Override for another way of clipping; call `clip_gradients` from it for the usual ones."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def toggle_optimizer(self, optimizer: Any) -> None:
        """Let only this optimizer's parameters require gradients, until `untoggle_optimizer`."""
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"toggle_optimizer({optimizer!r}): it takes one of self.optimizers().")
        own = {id(p) for p in parameters(optimizer)}
        saved = self.__dict__.setdefault("_toggled", {})
        for other in self.trainer.optimizers:
            for parameter in parameters(other):
                saved.setdefault(parameter, parameter.requires_grad)
                parameter.requires_grad = id(parameter) in own and saved[parameter]

    def untoggle_optimizer(self, optimizer: Any) -> None:
        for parameter, required in self.__dict__.pop("_toggled", {}).items():
            parameter.requires_grad = required

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Iterator[None]:
        """`toggle_optimizer` for the length of a with-block."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def freeze(self) -> LightningModule:
        """No parameter requires gradients any more, and the module is in evaluation mode."""
        self.requires_grad_(False)
        return self.eval()

    def unfreeze(self) -> LightningModule:
        self.requires_grad_(True)
        return self.train()

    load_from_checkpoint = class_only(load_module)
