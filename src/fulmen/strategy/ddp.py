"""Data parallel training: each rank has the whole model and a part of the data; gradients are averaged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fulmen.device import Accelerator
from fulmen.errors import MisconfigurationException, nearest
from fulmen.precision import Precision
from fulmen.strategy import collectives, launch
from fulmen.strategy.environment import ClusterEnvironment
from fulmen.strategy.parallel import ParallelStrategy

PREPARE = ""
"""The step's name with which `StepModule` only hands its argument through."""


class StepModule(Module):
    """Lets a method of the module run as the forward pass of what is wrapped around it."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module
        ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", ())
        self._ddp_params_and_buffers_to_ignore = [f"module.{name}" for name in ignored]

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return args[0] if name == PREPARE else getattr(self.module, name)(*args, **kwargs)


class DDPStrategy(ParallelStrategy):
    """`torch.nn.parallel.DistributedDataParallel`, which gets all further arguments.

    >>> Trainer(devices=2, strategy=DDPStrategy(find_unused_parameters=True))
    """

    name = "ddp"

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: Any = None,
        precision_plugin: Precision | None = None,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        model_averaging_period: int | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: str = "popen",
        **kwargs: Any,
    ) -> None:
        super().__init__(accelerator, parallel_devices, cluster_environment, checkpoint_io, precision_plugin)
        if start_method not in launch.METHODS:
            raise ValueError(
                f"start_method={start_method!r} must be one of {', '.join(launch.METHODS)}."
                f"{nearest(start_method, launch.METHODS)}"
            )
        known = list(inspect.signature(DistributedDataParallel.__init__).parameters)[2:]
        for name in set(kwargs) - set(known):
            raise TypeError(f"DDPStrategy has no argument {name!r}.{nearest(name, known)}")
        self.ddp_comm_state = ddp_comm_state
        self.ddp_comm_hook = ddp_comm_hook
        self.ddp_comm_wrapper = ddp_comm_wrapper
        self.model_averaging_period = model_averaging_period
        self.process_group_backend = process_group_backend
        self.timeout = timeout
        self.start_method = start_method
        self.ddp_kwargs = kwargs
        self._manual = False
        self._syncing = True

    def setup(self, module: Module, precision: Precision, training: bool = True) -> None:
        """Place the module, and make it the same on all ranks; where there is something to train, wrap it."""
        if self.layer_sync is not None:
            module = self.layer_sync.apply(module)
        super().setup(module, precision, training)
        self._manual = not getattr(module, "automatic_optimization", True)
        self.wraps = training and any(parameter.requires_grad for parameter in module.parameters())
        if self.wraps:
            self.model = self.configure_ddp()
        else:
            collectives.equalize([*module.parameters(), *module.buffers()])

    def configure_ddp(self) -> Module:
        """The wrapped module."""
        # No device_ids: batches are on the device already, and DDP need not look through them.
        model = DistributedDataParallel(StepModule(self.module), **self.ddp_kwargs)
        if self.ddp_comm_hook is not None:
            wrap = self.ddp_comm_wrapper
            model.register_comm_hook(self.ddp_comm_state, wrap(self.ddp_comm_hook) if wrap else self.ddp_comm_hook)
        return model

    def setup_optimizers(self, optimizers: list[Optimizer]) -> None:
        super().setup_optimizers(optimizers)
        if self.model_averaging_period is not None:
            for optimizer in optimizers:
                optimizer.register_step_post_hook(self._averaging())

    def _averaging(self) -> Callable[..., None]:
        """A hook that averages the parameters over the ranks, every so many steps."""
        from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

        if not isinstance(self.ddp_comm_state, PostLocalSGDState):
            raise MisconfigurationException(
                f"model_averaging_period={self.model_averaging_period} is for local SGD: pass a PostLocalSGDState as "
                "ddp_comm_state and post_localSGD_hook as ddp_comm_hook."
            )
        start = self.ddp_comm_state.start_localSGD_iter
        averager = PeriodicModelAverager(period=self.model_averaging_period, warmup_steps=start)
        return lambda optimizer, *_: averager.average_parameters(optimizer.param_groups)

    def wrap_step(self, name: str) -> Callable[..., Any]:
        """The training step within the wrapper's forward pass; the other steps need no wrapper."""
        if not self.wraps or name != "training_step":
            return getattr(self.module, name)
        return self._manual_step if self._manual else partial(self.model, name)

    def _manual_step(self, *args: Any, **kwargs: Any) -> Any:
        """A step that calls `backward` itself, maybe several times: each call then prepares its own reduction."""
        self.model.require_forward_param_sync = True
        with self.model.no_sync():
            return self.model("training_step", *args, **kwargs)

    def sync_buffers(self) -> None:
        if self.wraps and self.model.broadcast_buffers:
            for buffer in self.module.buffers():
                dist.broadcast(buffer, 0)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Forward and backward passes within it leave gradients on each rank, to be added up later."""
        before, self._syncing = self._syncing, False
        with self.model.no_sync() if self.wraps else nullcontext():
            try:
                yield
            finally:
                self._syncing = before

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._manual and self.wraps and self._syncing:
            loss = self._prepare(loss)
        loss.backward(*args, **kwargs)

    def _prepare(self, loss: Tensor) -> Tensor:
        """Make the wrapper expect the backward pass of `loss`."""
        model = self.model
        before, model.require_backward_grad_sync = model.require_backward_grad_sync, True
        model.require_forward_param_sync = False  # buffers went round at the start of the step
        try:
            return model(PREPARE, loss)
        finally:
            model.require_backward_grad_sync = before

    def skip_backward(self) -> None:
        """Take part in the others' backward pass with a gradient of zero, on a rank whose step gave no loss.

        The optimizer has to step here too, so that the model stays the same on all ranks.
        """
        if self.wraps and self._syncing:
            zero: Any = sum(
                parameter.flatten()[:0].sum() for parameter in self.module.parameters() if parameter.requires_grad
            )
            self._prepare(zero).backward()

    def teardown(self) -> None:
        self.wraps = False
        super().teardown()
        if self.layer_sync is not None and self.module is not None:
            self.module = self.model = self.layer_sync.revert(self.module)
