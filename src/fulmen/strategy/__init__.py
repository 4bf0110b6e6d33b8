"""Strategies: where the model lives, and over how many processes it is spread."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from fulmen.device import Accelerator, Registry
from fulmen.errors import MisconfigurationException, nearest
from fulmen.strategy.base import SingleDeviceStrategy, Strategy
from fulmen.strategy.environment import TorchElasticEnvironment

if TYPE_CHECKING:
    from fulmen.strategy.ddp import DDPStrategy
    from fulmen.strategy.parallel import ParallelStrategy

__all__ = ["DDPStrategy", "ParallelStrategy", "SingleDeviceStrategy", "Strategy", "StrategyRegistry", "choose"]

_HOMES = {"DDPStrategy": "ddp", "ParallelStrategy": "parallel"}  # loaded on first use: one process needs none of it
NOT_THERE_YET = ("fsdp", "deepspeed", "xla", "single_xla", "single_tpu")


class Strategies(Registry):
    """Strategies by the name for `strategy=`.

    >>> StrategyRegistry.register("ddp_static", DDPStrategy, description="for fixed graphs", static_graph=True)
    """

    def __getitem__(self, name: str) -> dict[str, Any]:
        entry = super().__getitem__(name)
        if isinstance(entry["strategy"], str):
            entry["strategy"] = __getattr__(entry["strategy"])
        return entry

    def get(self, name: str, default: Any = None) -> Any:
        """A new strategy of that name, or `default`."""
        strategy = super().get(name, default)
        if name in self:
            strategy.name = name
        return strategy

    def available_strategies(self) -> list[str]:
        """All registered names."""
        return list(self)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


StrategyRegistry = Strategies("strategy")
StrategyRegistry.register("single_device", SingleDeviceStrategy, description="one process on one device")
for _name, _method in {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}.items():
    _description = f"data parallel, processes started by {_method}"
    StrategyRegistry.register(_name, "DDPStrategy", _description, start_method=_method)
    for _unused in (False, True):
        StrategyRegistry.register(
            f"{_name}_find_unused_parameters_{str(_unused).lower()}",
            "DDPStrategy",
            _description,
            start_method=_method,
            find_unused_parameters=_unused,
        )


def choose(
    strategy: str | Strategy,
    accelerator: Accelerator,
    devices: list[torch.device],
    num_nodes: int = 1,
    cluster_environment: Any = None,
    checkpoint_io: Any = None,
    layer_sync: Any = None,
) -> Strategy:
    """The strategy that the Trainer's arguments mean, with its ranks known and no process started."""
    chosen = strategy if isinstance(strategy, Strategy) else _named(strategy, len(devices), num_nodes)
    chosen.cluster_environment = cluster_environment or chosen.cluster_environment
    chosen.checkpoint_io = checkpoint_io or chosen.checkpoint_io
    chosen.layer_sync = layer_sync
    chosen.place(accelerator, devices, num_nodes)
    return chosen


def _named(name: Any, num_devices: int, num_nodes: int) -> Strategy:
    if name == "auto":
        name = _best(num_devices, num_nodes)
    valid = sorted({"auto", *StrategyRegistry})
    if isinstance(name, str) and name.startswith(NOT_THERE_YET) and name not in StrategyRegistry:
        raise MisconfigurationException(f"strategy={name!r} is not there yet; for several devices there is 'ddp'.")
    if not isinstance(name, str) or name not in StrategyRegistry:
        raise ValueError(f"strategy={name!r} must be one of {', '.join(valid)}, or a Strategy.{nearest(name, valid)}")
    return StrategyRegistry.get(name)


def _best(num_devices: int, num_nodes: int) -> str:
    if num_devices == num_nodes == 1:
        started = TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 1
        if started > 1:
            raise MisconfigurationException(
                f"torchrun started {started} processes, but devices=1. Pass as many devices as processes on each "
                "machine, or strategy='single_device' if each process is to train by itself."
            )
        return "single_device"
    return "ddp_notebook" if hasattr(sys, "ps1") else "ddp"
