"""Types for annotations in users' code, and enumerations that read as strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypedDict, Union

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import NotRequired, Required, Self  # comes with torch

from fulmen.errors import nearest
from fulmen.optim import LRSchedulerConfig

STEP_OUTPUT = Union[Tensor, Mapping[str, Any], None]  # noqa: UP007 (an object at run time, used in users' annotations)
"""What a step may return."""

TRAIN_DATALOADERS = Any
EVAL_DATALOADERS = Any
EPOCH_OUTPUT = list[Any]
LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
LRSchedulerTypeUnion = Union[LRScheduler, ReduceLROnPlateau]  # noqa: UP007
LRSchedulerType = Union[type[LRScheduler], type[ReduceLROnPlateau]]  # noqa: UP007


class LRSchedulerConfigType(TypedDict, total=False):
    """A scheduler as a dict, in what `configure_optimizers` returns."""

    scheduler: Required[LRSchedulerTypeUnion]
    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


class OptimizerConfig(TypedDict):
    """An optimizer as a dict."""

    optimizer: Optimizer


class OptimizerLRSchedulerConfig(TypedDict):
    """An optimizer with its scheduler as a dict."""

    optimizer: Optimizer
    lr_scheduler: LRSchedulerTypeUnion | LRSchedulerConfigType
    monitor: NotRequired[str]


OptimizerLRScheduler = Union[  # noqa: UP007
    Optimizer,
    Sequence[Optimizer],
    tuple[Sequence[Optimizer], Sequence[Union[LRSchedulerTypeUnion, LRSchedulerConfig]]],  # noqa: UP007
    OptimizerConfig,
    OptimizerLRSchedulerConfig,
    Sequence[OptimizerConfig],
    Sequence[OptimizerLRSchedulerConfig],
    None,
]
"""What `configure_optimizers` may return."""


class LightningEnum(str, Enum):
    """Members equal their value as a string; `from_str` takes names and values in any case."""

    @classmethod
    def from_str(cls, value: str) -> Self:
        if found := cls.try_from_str(value):
            return found
        words = [member.value for member in cls]
        raise ValueError(f"{value!r} must be one of {words}.{nearest(value, words)}")

    @classmethod
    def try_from_str(cls, value: str) -> Self | None:
        plain = f"{value}".lower().replace("-", "_")
        return next((member for member in cls if plain in (member.name.lower(), member.value.lower())), None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.value.lower() == str.lower(getattr(other, "value", other))

    def __hash__(self) -> int:
        return hash(self.value.lower())

    def __format__(self, spec: str) -> str:
        """In f-strings the value, as in every Python before 3.11; str() gives the member."""
        return format(self.value, spec)


class GradClipAlgorithmType(LightningEnum):
    """The words of `Trainer(gradient_clip_algorithm=...)`."""

    VALUE = "value"
    NORM = "norm"
