"""The parts of a Trainer made from its options: the engine, callbacks, loggers, plugins."""

from __future__ import annotations

import os
from typing import Any

import torch

from fulmen import device
from fulmen import precision as precisions
from fulmen import strategy as strategies
from fulmen.callbacks.base import Callback, Checkpoint
from fulmen.errors import MisconfigurationException
from fulmen.hooks import order
from fulmen.loggers.base import DummyLogger, Logger
from fulmen.options import Options, listed
from fulmen.precision import Precision
from fulmen.strategy.environment import ClusterEnvironment, SLURMEnvironment


def engine(options: Options) -> tuple[device.Accelerator, strategies.Strategy, Precision]:
    """The accelerator, the strategy and the precision; nothing is started."""
    brought = plugins(options)
    set_determinism(options)
    accelerator, devices = device.choose(options.accelerator, options.devices)
    strategy = strategies.choose(
        options.strategy, accelerator, devices, options.num_nodes, brought.get("environment"),
        brought.get("checkpoint_io"), brought.get("layer_sync"),
    )  # fmt: skip
    own = brought.get("precision") or strategy.precision
    return accelerator, strategy, precisions.choose(options.precision, strategy.root_device.type, own)


def loggers(options: Options) -> list[Logger]:
    """The loggers asked for; by default a TensorBoardLogger under default_root_dir."""
    given = options.logger
    if not given:
        return []
    if given is True:
        if options.fast_dev_run:
            return [DummyLogger()]
        from fulmen.loggers.tensorboard import TensorBoardLogger

        job = SLURMEnvironment.job_id()  # so that a requeued job goes on in its folder
        return [TensorBoardLogger(save_dir=options.default_root_dir, version=None if job is None else str(job))]
    if options.fast_dev_run:
        return [DummyLogger()]
    return [given] if isinstance(given, Logger) else list(given)


def callbacks(options: Options) -> list[Callback]:
    """The user's callbacks, and those that the options turn on."""
    found: list[Callback] = list(options.callbacks)
    if options.max_time is not None and not any(type(c).__name__ == "Timer" for c in found):
        from fulmen.callbacks.timer import Timer

        found.append(Timer(options.max_time, interval="step"))
    if options.enable_progress_bar and not any(hasattr(c, "total_train_batches") for c in found):
        from fulmen.callbacks.progress import default_bar

        found.append(default_bar())
    if options.enable_model_summary and not any(type(c).__name__.endswith("ModelSummary") for c in found):
        from fulmen.callbacks.model_summary import ModelSummary

        found.append(ModelSummary())
    if options.enable_checkpointing and not any(isinstance(c, Checkpoint) for c in found):
        from fulmen.callbacks.checkpoint import ModelCheckpoint

        found.append(ModelCheckpoint())
    return order(found)


def merge(own: list[Callback], brought: Any) -> list[Callback]:
    """The trainer's callbacks with those of the module's configure_callbacks, which replace their own class."""
    brought = listed(brought)
    for callback in brought:
        if not isinstance(callback, Callback):
            raise TypeError(f"configure_callbacks returned {callback!r}, which is not an instance of fulmen.Callback.")
    classes = {type(callback) for callback in brought}
    return order([c for c in own if type(c) not in classes] + brought)


def plugins(options: Options) -> dict[str, Any]:
    """plugins= sorted by what they are: precision, checkpoint_io, environment, layer_sync; at most one of each."""
    from fulmen.strategy.checkpoint_io import CheckpointIO
    from fulmen.strategy.layer_sync import LayerSync, TorchSyncBatchNorm

    kinds = {
        "precision": Precision, "environment": ClusterEnvironment, "checkpoint_io": CheckpointIO,
        "layer_sync": LayerSync,
    }  # fmt: skip
    found: dict[str, Any] = {}
    for plugin in listed(options.plugins):
        kind = next((name for name, base in kinds.items() if isinstance(plugin, base)), None)
        if kind is None:
            raise TypeError(
                f"plugins has {plugin!r}; it must be a Precision, a ClusterEnvironment, a CheckpointIO or a LayerSync."
            )
        if kind in found:
            raise MisconfigurationException(f"plugins has more than one of the kind {kind!r}; keep one.")
        found[kind] = plugin
    if options.sync_batchnorm and "layer_sync" not in found:
        found["layer_sync"] = TorchSyncBatchNorm()
    return found


def set_determinism(options: Options) -> None:
    """torch's global switches for deterministic algorithms and cudnn."""
    if options.deterministic is not None:
        torch.use_deterministic_algorithms(bool(options.deterministic), warn_only=options.deterministic == "warn")
        if options.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
    if options.benchmark is not None:
        torch.backends.cudnn.benchmark = options.benchmark
