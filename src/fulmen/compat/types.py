"""Private aliases of old `utilities.types` modules that projects import all the same."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fulmen.types import LightningEnum

if TYPE_CHECKING:
    from torchmetrics import Metric

_PATH = Union[str, Path]  # noqa: UP007 (these are objects that code may take apart at run time)
_DEVICE = Union[torch.device, str, int]  # noqa: UP007
_MAP_LOCATION_TYPE = Union[_DEVICE, Callable[..., Any], Mapping[Any, Any], None]  # noqa: UP007
_PARAMETERS = Iterator[nn.Parameter]
_NUMBER = Union[int, float]  # noqa: UP007
_METRIC = Union["Metric", Tensor, int, float]
_EVALUATE_OUTPUT = list[Mapping[str, float]]
_PREDICT_OUTPUT = Union[list[Any], list[list[Any]]]  # noqa: UP007
_LRScheduler = LRScheduler

# Of the command line, which is not there yet: what modules without it annotate their arguments with.
ArgsType = Union[list[str], dict[str, Any], Namespace, None]  # noqa: UP007
OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], Union[LRScheduler, ReduceLROnPlateau]]  # noqa: UP007


class AMPType(LightningEnum):
    """What did mixed precision, to compare with `trainer.amp_backend`."""

    APEX = "apex"
    NATIVE = "native"


LightningDeprecationWarning = DeprecationWarning

TRUE = True  # what was asked of torch's version
_IS_WINDOWS = os.name == "nt"
FLOAT16_EPSILON, FLOAT32_EPSILON, FLOAT64_EPSILON = (
    torch.finfo(dtype).eps for dtype in (torch.float16, torch.float32, torch.float64)
)
