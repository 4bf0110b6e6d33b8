"""What users ask of loaders: their length, the workers worth having."""

from __future__ import annotations

import math
from typing import Any

from torch.utils.data import IterableDataset

from fulmen.data import loader_length
from fulmen.device import cores
from fulmen.tree import batch_size as extract_batch_size
from fulmen.warn import rank_zero_warn

__all__ = [
    "extract_batch_size",
    "has_iterable_dataset",
    "has_len",
    "has_len_all_ranks",
    "sized_len",
    "suggested_max_num_workers",
]


def sized_len(dataloader: Any) -> int | None:
    """The number of batches, None where the loader does not know it."""
    length = loader_length(dataloader)
    return None if math.isinf(length) else int(length)


def has_len(dataloader: Any) -> bool:
    """Whether the loader knows its length; warns when it is 0."""
    length = sized_len(dataloader)
    if length == 0:
        rank_zero_warn(f"{type(dataloader).__name__} has no batches. Give it data, or leave it out.")
    return length is not None


def has_len_all_ranks(
    dataloader: Any, strategy: Any, allow_zero_length_dataloader_with_multiple_devices: bool = False
) -> bool:
    """Whether the loader knows its length on this rank, and has batches on every rank."""
    length = sized_len(dataloader)
    if length is None:
        return False
    fewest = int(strategy.reduce(length, reduce_op="min"))
    if fewest == 0 and length and not allow_zero_length_dataloader_with_multiple_devices:
        raise RuntimeError(
            "The loader is empty on some ranks, for which the others would wait. Give each rank a share."
        )
    return length > 0 or has_len(dataloader)


def has_iterable_dataset(dataloader: Any) -> bool:
    return isinstance(getattr(dataloader, "dataset", None), IterableDataset)


def suggested_max_num_workers(local_world_size: int) -> int:
    """How many workers each rank's loader can have before the processes of this machine outnumber its cores."""
    if local_world_size < 1:
        raise ValueError(f"local_world_size={local_world_size} must be 1 or more: the processes on this machine.")
    return max(1, cores() // local_world_size - 1)
