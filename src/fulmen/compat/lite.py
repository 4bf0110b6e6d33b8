"""`LightningLite`: the user's own loop, on the devices, processes and number formats that a Trainer would use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from fulmen import data, options, parts, tree
from fulmen.compat.arguments import Translation
from fulmen.optim import LightningOptimizer
from fulmen.precision import Precision
from fulmen.readout import _of
from fulmen.seed import capture, restore, seed_everything


class LightningLite:
    """Subclass it, write the loop as `run` and call that: it runs once on each device, and its result is returned."""

    _launched = _running = False  # whether this process is one of the ranks by now; whether `run` is under way

    def __init__(
        self, accelerator: Any = None, strategy: Any = None, devices: Any = None, num_nodes: int = 1,
        precision: Any = 32, plugins: Any = None, gpus: Any = None, tpu_cores: Any = None,
    ) -> None:  # fmt: skip
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        if precision == 32:
            del given["precision"]  # a plugin may say it
        if accelerator is None and gpus is None and tpu_cores is None:
            given["accelerator"] = "cpu"
        translated = Translation({**given, "max_epochs": 1}, set(options.NAMES), "LightningLite").result()
        self._accelerator, self._strategy, self._precision = parts.engine(options.check(translated))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if run := vars(cls).get("run"):

            @wraps(run)
            def launched(self: LightningLite, *args: Any, **kwargs: Any) -> Any:
                return run(self, *args, **kwargs) if self._running else self.launch(launched, *args, **kwargs)

            cls.run = launched

    def run(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} has no run(): write the loop as run() in your subclass.")

    def launch(self, function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Bring the processes together, and call `function` with this object in each; without one, go on from here."""
        if function is None and self._strategy.starts_anew:
            raise ValueError(f"strategy={self._strategy.name!r} starts processes for a function: pass launch() one.")
        try:
            return self._strategy.launch(partial(self._go, function, args, kwargs, capture()))
        finally:
            self._strategy.checkpoint_io.teardown()

    def _go(self, function: Any, args: Any, kwargs: Any, random_states: dict[str, Any]) -> Any:
        """As one of the ranks; a new process goes on with the random numbers of the one that started it."""
        if self._strategy.starts_anew:
            restore(random_states)
        self._launched = self._running = True
        try:
            return function and function(self, *args, **kwargs)
        finally:
            self._running = False

    device, node_rank = _of("_strategy.root_device"), _of("_strategy.node_rank")
    global_rank, local_rank = _of("_strategy.global_rank"), _of("_strategy.local_rank")
    world_size, is_global_zero = _of("_strategy.world_size"), _of("_strategy.is_global_zero")
    to_device, barrier = _of("_strategy.to_device"), _of("_strategy.barrier")
    all_gather, broadcast = _of("_strategy.gather"), _of("_strategy.broadcast")
    reduce_decision = _of("_strategy.reduce_boolean_decision")
    autocast = _of("_precision.forward_context")

    def setup(self, model: Module, *optimizers: Optimizer, move_to_device: bool = True) -> Any:
        """The model placed and wrapped; with optimizers a tuple of it and them."""
        self._check("setup", model, Module, LiteModule)
        strategy = self._strategy
        strategy.moves = move_to_device
        strategy.setup(model, self._precision)
        wrapped = LiteModule(strategy.module, strategy.model if strategy.wraps else None, self._precision)
        return (wrapped, *map(self.setup_optimizers, optimizers)) if optimizers else wrapped

    setup_module = setup

    def setup_optimizers(self, *optimizers: Optimizer) -> Any:
        """The optimizers wrapped; one alone, or a tuple."""
        for optimizer in optimizers:
            self._check("setup", optimizer, Optimizer, LightningOptimizer)
        self._strategy.setup_optimizers(list(optimizers))
        wrapped = tuple(map(LightningOptimizer, optimizers))
        for one in wrapped if self._precision.scales else ():
            one._run = partial(_scaled_step, self._precision)
        return wrapped[0] if len(wrapped) == 1 else wrapped

    def setup_dataloaders(self, *loaders: Any, replace_sampler: bool = True, move_to_device: bool = True) -> Any:
        """Each rank's share of the loaders, their batches on its device; one loader alone, or a list."""
        ready, share = [], self._strategy.distributed_sampler_kwargs
        for loader in loaders:
            self._check("setup_dataloaders", loader, DataLoader, LiteLoader)
            if replace_sampler and share is not None:
                loader = data.distributed(loader, share, training=True, seed=int(os.environ.get("PL_GLOBAL_SEED", 0)))
            loader = data.seeded_workers(loader, self.global_rank)
            ready.append(LiteLoader(loader, self.to_device if move_to_device else None))
        return ready[0] if len(ready) == 1 else ready

    def _check(self, verb: str, given: Any, kind: type, ready: type) -> None:
        """It is what `verb` takes and not ready before, and the ranks are together."""
        if type(given) is ready:
            raise ValueError(f"{verb}() got a {kind.__name__} that it made ready before; pass each of them once.")
        if not isinstance(given, kind):
            raise TypeError(f"{verb}() takes a torch {kind.__name__}, not {type(given).__name__}.")
        if not self._launched and (self.world_size > 1 or self._strategy.starts_anew):
            raise RuntimeError(f"{verb}() over {self.world_size} processes works within run(), or after launch().")

    def backward(self, tensor: Tensor, *args: Any, model: Any = None, **kwargs: Any) -> None:
        """In place of `loss.backward()`."""
        self._precision.scale(tensor).backward(*args, **kwargs)

    def no_backward_sync(self, module: LiteModule, enabled: bool = True) -> AbstractContextManager[Any]:
        """Forward and backward passes within it leave gradients on each rank, to be added up by the next outside."""
        if type(module) is not LiteModule:
            raise TypeError(f"no_backward_sync() got a {type(module).__name__}; pass the model that setup() returned.")
        return module.__dict__["_parallel"].no_sync() if enabled and module.__dict__["_parallel"] else nullcontext()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print from one process of each machine."""
        if self.local_rank == 0:
            print(*args, **kwargs)

    def save(self, content: dict[str, Any], filepath: Any) -> None:
        """Write a file on rank zero; the others need not call this, and do not wait."""
        if self.is_global_zero:
            self._strategy.checkpoint_io.save_checkpoint(content, filepath)

    def load(self, filepath: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What `save` wrote; `weights_only=False` for a file that you trust, if it may run code."""
        return self._strategy.load(filepath, weights_only=weights_only)

    @staticmethod
    def seed_everything(seed: int | None = None, workers: bool | None = None) -> int:
        """Seed everything, by default the workers of loaders too."""
        return seed_everything(seed, workers is not False)


class LiteModule(Module):
    """What goes through the model is of the right type; everything else is the model's own."""

    def __init__(self, module: Module, parallel: Any, precision: Precision) -> None:
        super().__init__()
        self.module = module
        self.__dict__["_parallel"] = parallel  # not a submodule: it has the same parameters
        self._precision = precision

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The model's method `name`; where there will be gradients, within what averages them over the ranks."""
        args, kwargs = _converted((args, kwargs), getattr(self._precision, "dtype", torch.float32))
        parallel = self.__dict__["_parallel"] if torch.is_grad_enabled() else None
        with self._precision.forward_context():
            output = parallel(name, *args, **kwargs) if parallel else getattr(self.module, name)(*args, **kwargs)
        return _converted(output, torch.get_default_dtype())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("__call__", *args, **kwargs)

    state_dict, load_state_dict = _of("module.state_dict"), _of("module.load_state_dict")

    def __getattr__(self, name: str) -> Any:
        if name in ("training_step", "validation_step", "test_step", "predict_step"):
            return partial(self._call, name)
        return super().__getattr__(name) if name == "module" else getattr(self.module, name)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device


class LiteLoader:
    """The loader with its batches on the device; everything else is its own."""

    _loader: Any = None

    def __init__(self, loader: Any, move: Callable[[Any], Any] | None) -> None:
        self._loader, self._move = loader, move

    def __iter__(self) -> Iterator[Any]:
        return map(self._move, self._loader) if self._move else iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _converted(data: Any, dtype: torch.dtype) -> Any:
    return tree.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, data)


def _scaled_step(precision: Precision, optimizer: LightningOptimizer, closure: Any = None, **kwargs: Any) -> Any:
    """A step by gradients that are scaled, for which the closure has to run before."""
    loss = closure() if closure is not None else None
    precision.step(optimizer.optimizer)
    return loss
