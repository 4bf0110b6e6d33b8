"""Where a model lives and how it is spread: the interface of all strategies, and the one for a single device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from fulmen import tree
from fulmen.device import Accelerator
from fulmen.errors import MisconfigurationException
from fulmen.precision import Precision

if TYPE_CHECKING:
    from fulmen.signals import Ranks
    from fulmen.strategy.checkpoint_io import CheckpointIO
    from fulmen.strategy.layer_sync import LayerSync

T = TypeVar("T")


class Strategy:
    """One process, one device; the strategies for more override what differs.

    Made with the Trainer, when no process group is there yet; `launch` brings the other processes, `setup` the module.
    """

    name: str = "strategy"
    wraps: bool = False
    """Whether the training step has to be called through what `wrap_step` returns."""

    starts_anew: bool = False
    """Whether `launch` runs its work in new processes, and none of it here."""

    moves: bool = True
    """Whether `setup` puts the module on the device; otherwise the caller does."""

    distributed_sampler_kwargs: dict[str, int] | None = None
    cluster_environment: Any = None  # who started the processes, where there are several

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        checkpoint_io: Any = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        from fulmen.strategy.checkpoint_io import TorchCheckpointIO

        self.accelerator = accelerator
        self.checkpoint_io: CheckpointIO = checkpoint_io or TorchCheckpointIO()
        self.layer_sync: LayerSync | None = None
        self.precision = precision_plugin
        self.parallel_devices: list[torch.device] = []
        self.root_device = torch.device("cpu")
        """The device of this process."""
        self.num_nodes = 1
        self.world_size = 1
        self.node_rank = self.local_rank = self.global_rank = 0
        self.is_global_zero = True
        self.module: Any = None
        self.model: Any = None
        """What training calls: `module`, or a wrapper around it."""
        self.optimizers: list[Optimizer] = []

    @property
    def device_ids(self) -> list[int]:
        """The indices of this machine's devices that are used."""
        return [
            position if device.index is None else device.index for position, device in enumerate(self.parallel_devices)
        ]

    @property
    def strategy_name(self) -> str:
        return self.name

    @property
    def lightning_module(self) -> Any:
        """The user's module, never a wrapper."""
        return self.module

    @property
    def precision_plugin(self) -> Precision | None:
        return self.precision

    def place(self, accelerator: Accelerator, devices: list[torch.device], num_nodes: int = 1) -> None:
        """Take the devices that the Trainer chose, one for each process on this machine, unless made with others."""
        self.accelerator = self.accelerator or accelerator
        self.parallel_devices = self.parallel_devices or devices
        self.root_device = self.parallel_devices[0]
        self.num_nodes = num_nodes

    def launch(self, work: Callable[[], T]) -> T:
        """Run `work` in every process, and return its result; where processes are started for it, that of rank zero."""
        self.setup_environment()
        return work()

    def setup_environment(self) -> None:
        """Make the process ready, before anything is put on a device."""
        if self.accelerator is not None:
            self.accelerator.setup_device(self.root_device)

    def setup(self, module: Module, precision: Precision, training: bool = True) -> None:
        """Convert the module and place it on the device; for training also wrap it."""
        self.precision = precision
        self.module = self.model = precision.convert_module(module)
        if self.moves:
            self.module.to(self.root_device)

    def setup_optimizers(self, optimizers: list[Optimizer]) -> None:
        """Keep the optimizers; called when they are made, before their state is restored."""
        self.optimizers = optimizers

    def to_device(self, batch: Any) -> Any:
        """The batch on this process's device."""
        return tree.move(batch, self.root_device)

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """The batch on `device`, or on this process's own."""
        return tree.move(batch, device or self.root_device)

    def wrap_step(self, name: str) -> Callable[..., Any]:
        """What to call for the module's method `name`."""
        return getattr(self.module, name)

    def sync_buffers(self) -> None:
        """Before a validation within training: buffers as they are saved, those of rank zero."""

    def no_sync(self) -> AbstractContextManager[Any]:
        """Forward and backward passes within it leave gradients on each rank, to be added up later."""
        return nullcontext()

    def block_backward_sync(self) -> AbstractContextManager[Any]:
        """`no_sync` under the name that users of manual optimization know."""
        return self.no_sync()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients; after it they are the same on all ranks, unless within `no_sync`."""
        loss.backward(*args, **kwargs)

    def skip_backward(self) -> None:
        """Take part in the others' backward pass with a gradient of zero, on a rank whose step gave no loss."""

    def clip(self, parameters: Iterable[Tensor], value: float, algorithm: str = "norm") -> Tensor | None:
        """Clip gradients in place, to a total norm of `value` (returns the norm before) or each number to ±`value`."""
        if algorithm == "value":
            clip_grad_value_(parameters, value)
            return None
        return clip_grad_norm_(parameters, value)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """`tensor` combined over all ranks by "mean", "sum", "min" or "max": a new tensor, the same on all ranks."""
        return tensor

    def gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """The tensors of all ranks, stacked in a new first dimension; with one rank they stay as they are."""
        return data

    def all_gather(self, tensor: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """`gather` under the name that users know."""
        return self.gather(tensor, group, sync_grads)

    def broadcast(self, obj: T, src: int = 0) -> T:
        """The object of rank `src`, whatever it is, as long as it can be pickled."""
        return obj

    def gather_object(self, obj: T) -> list[T]:
        """The objects of all ranks, whatever they are, as long as they can be pickled."""
        return [obj]

    def barrier(self, name: str | None = None) -> None:
        """Wait for all ranks."""

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all ranks say yes, or with `all=False` any."""
        return decision

    def agreement(self, ahead: Callable[[], int]) -> Ranks | None:
        """Through which the ranks agree where to stop; each rank asks once a fit."""
        return None

    give_up: Any = None
    """Ends this process with a word to the other ranks, where there are any."""

    def save(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint on rank zero; every rank calls this, and goes on when the file is there."""
        self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, on every rank."""
        return self.checkpoint_io.load_checkpoint(path, map_location=map_location, weights_only=weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint; rank zero calls this."""
        self.checkpoint_io.remove_checkpoint(path)

    def teardown(self) -> None:
        """Give the device back: the module goes to the CPU. Processes stay for the next call."""
        self.model = self.module
        self.optimizers = []
        self.checkpoint_io.teardown()
        if self.module is not None and self.root_device.type != "cpu":
            self.module.cpu()
        if self.accelerator is not None:
            self.accelerator.teardown()


class SingleDeviceStrategy(Strategy):
    """One process on one device, by default the one that the Trainer's other arguments mean."""

    name = "single_device"

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        accelerator: Accelerator | None = None,
        checkpoint_io: Any = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator, checkpoint_io, precision_plugin)
        if device is not None:
            self.parallel_devices = [torch.device("cuda", device) if isinstance(device, int) else torch.device(device)]

    def place(self, accelerator: Accelerator, devices: list[torch.device], num_nodes: int = 1) -> None:
        if len(devices) > 1 or num_nodes > 1:
            raise MisconfigurationException(
                f"strategy='single_device' is for one device, but devices={len(devices)} and num_nodes={num_nodes}. "
                "Use strategy='ddp', or 'auto'."
            )
        super().place(accelerator, devices, num_nodes)
