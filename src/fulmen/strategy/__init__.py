"""Strategies: where the model lives and over how many processes it is spread."""

from __future__ import annotations

from typing import Any

import torch

from fulmen.device import Accelerator
from fulmen.strategy.base import SingleDeviceStrategy, Strategy


def choose(strategy: Any, accelerator: Accelerator, devices: list[torch.device], num_nodes: int = 1) -> Strategy:
    """The strategy that `Trainer(strategy=...)` means, for these devices."""
    if not isinstance(strategy, Strategy):
        strategy = SingleDeviceStrategy(devices[0])
    strategy.place(accelerator, devices, num_nodes)
    return strategy
