"""What the loops ask of loaders: length, limits, checks, and other samplers.

No function here changes the user's loader; those that return one return a shallow copy. A loader may be any iterable
of batches: where it is not a torch `DataLoader`, nothing is known of samplers and it is returned as it is.
"""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fulmen.errors import MisconfigurationException
from fulmen.seed import isolate_rng, pl_worker_init_function
from fulmen.warn import rank_zero_warn

WANTED = "a DataLoader or another iterable of batches, or a list or dict of them"


def loader_length(loader: Any) -> int | float:
    """The number of batches, `math.inf` where the loader does not know it."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


def limit(length: int | float, limit_value: int | float, argument_name: str) -> int | float:
    """How many of `length` batches to take: an int is a number of batches, a float a share of them."""
    if isinstance(limit_value, int):
        return min(length, limit_value)
    if limit_value in (0.0, 1.0):
        return length if limit_value else 0
    if math.isinf(length):
        raise MisconfigurationException(
            f"{argument_name}={limit_value} is a share of the batches, but the loader has no length. Pass an int, the "
            "number of batches, or 1.0 for all; or give its dataset a __len__."
        )
    batches = int(length * limit_value + 1e-9)  # 0.29 * 100 is 28.999999999999996
    if length and limit_value and not batches:
        raise MisconfigurationException(
            f"{argument_name}={limit_value} of {length} batches is less than one batch. "
            f"Pass at least {argument_name}={1 / length:.3g}, or an int, the number of batches."
        )
    return batches


def check_loader(loader: Any, argument: str, stage: str) -> None:
    """Raise a TypeError, naming `argument` of `trainer.<stage>`, where batches cannot come from `loader`."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"{argument} in trainer.{stage} got the dataset {type(loader).__name__} itself. "
            f"Wrap it in a DataLoader: DataLoader({type(loader).__name__}(...), batch_size=...)."
        )
    iterable = any(hasattr(type(loader), name) for name in ("__iter__", "__getitem__"))
    if not iterable or isinstance(loader, (str, bytes, type)):
        hint = " Pass an instance, not the class." if isinstance(loader, type) else ""
        if hasattr(loader, "prepare_data"):
            hint += " A LightningDataModule is given alone: datamodule=..."
        raise TypeError(f"{argument} in trainer.{stage} must be {WANTED}, not {loader!r}.{hint}")
    if isinstance(loader, (list, tuple, Mapping)):
        for part in loader.values() if isinstance(loader, Mapping) else loader:
            if part is None or isinstance(part, (Dataset, type)) or isinstance(loader, Mapping):
                check_loader(part, argument, stage)
    for part in getattr(loader, "flattened", ()):
        check_loader(part, argument, stage)


def with_sampler(loader: DataLoader[Any], sampler: Iterable[Any]) -> DataLoader[Any]:
    """A copy of `loader` that draws its indices from `sampler`, batched as before."""
    batch_sampler = copy.copy(loader.batch_sampler)
    if batch_sampler is not None:
        batch_sampler.sampler = sampler  # type: ignore[attr-defined]
    return changed(loader, sampler=sampler, batch_sampler=batch_sampler)


def with_batch_sampler(loader: DataLoader[Any], batch_sampler: Iterable[Any]) -> DataLoader[Any]:
    """A copy of `loader` that draws from `batch_sampler` what it asks its dataset for: lists of indices.

    With `batch_size=None` a loader asks for single indices, so there `batch_sampler` must yield those.
    """
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    return changed(loader, **{name: batch_sampler})


def seeded_workers(loader: Any, rank: int) -> Any:
    """`loader` with its workers seeded, if `seed_everything(workers=True)` asked for it and the user does not do it."""
    if os.environ.get("PL_SEED_WORKERS") != "1" or not isinstance(loader, DataLoader) or loader.worker_init_fn:
        return loader
    return changed(loader, worker_init_fn=partial(pl_worker_init_function, rank=rank))


def changed(loader: DataLoader[Any], **changes: Any) -> DataLoader[Any]:
    """A copy of `loader`, of any class and with any constructor; a DataLoader itself forbids setting attributes."""
    new = copy.copy(loader)
    new.__dict__.update(changes, _iterator=None)  # persistent workers belong to the user's loader
    return new


def _sampler(loader: DataLoader[Any]) -> Any:
    """What really gives the order: with the user's own batch sampler `loader.sampler` is there but idle."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def is_known(loader: DataLoader[Any]) -> bool:
    """Whether the order of its samples is made by torch or here alone: drawn at once, and as long as it says."""
    part = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    while part is not None and type(part).__module__.startswith(("torch.", "fulmen.", "builtins")):
        part = getattr(part, "inner", getattr(part, "sampler", None))
    return part is None


def is_shuffled(loader: Any) -> bool:
    """Whether the order of samples is known to be another one in each epoch."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    sampler = _sampler(loader)
    if isinstance(sampler, DistributedSampler):
        return sampler.shuffle
    return isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))


def sequential(loader: Any) -> Any:
    """The same loader without shuffling, for `overfit_batches`; warns if it was shuffled."""
    if not is_shuffled(loader):
        return loader
    rank_zero_warn("overfit_batches needs the same batches in each epoch: the loader is used without its shuffling.")
    sampler = _sampler(loader)
    if isinstance(sampler, DistributedSampler):
        ordered: Any = copy.copy(sampler)
        ordered.shuffle = False
    elif isinstance(sampler, SubsetRandomSampler):
        ordered = list(sampler.indices)  # the rest of the dataset may be there for validation
    else:
        ordered = SequentialSampler(loader.dataset)
    return with_sampler(loader, ordered)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell every sampler in `loader` the epoch, from which distributed ones derive their order."""
    for part in getattr(loader, "flattened", [loader]):
        batch_sampler = getattr(part, "batch_sampler", None)
        found = [getattr(part, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
        for sampler in {id(each): each for each in found if hasattr(each, "set_epoch")}.values():
            sampler.set_epoch(epoch)  # type: ignore[union-attr]


def distributed(loader: Any, kwargs: dict[str, Any], training: bool, seed: int = 0, whole_batches: bool = False) -> Any:
    """`loader` with this rank's share of the samples; `kwargs` hold `num_replicas` and `rank`.

    In training all ranks get equally many, so some samples come twice (or, with `drop_last`, not at all). In
    evaluation each sample comes exactly once over all ranks, so that some ranks may get one less; with
    `whole_batches` the ranks take turns by the batches that one process would see.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    batches, sampler = loader.batch_sampler, _sampler(loader)
    if any(hasattr(each, "num_replicas") and hasattr(each, "rank") for each in (batches, sampler)):
        return loader
    if whole_batches or (batches is not None and not hasattr(batches, "sampler")):
        turns = DistributedSamplerWrapper(sampler if batches is None else batches, **kwargs, seed=seed, even=training)
        return with_batch_sampler(loader, turns)
    drop_last = getattr(batches, "drop_last", False)
    shuffle = isinstance(sampler, RandomSampler)
    if not _takes_all(sampler, loader.dataset):
        share = DistributedSamplerWrapper(sampler, **kwargs, seed=seed, drop_last=drop_last, even=training)
    elif training:
        share = DistributedSampler(loader.dataset, **kwargs, shuffle=shuffle, seed=seed, drop_last=drop_last)
    else:
        share = UnrepeatedDistributedSampler(loader.dataset, **kwargs, shuffle=shuffle, seed=seed)
    return with_sampler(loader, share)


def takes_turns(loader: Any) -> bool:
    """Whether this loader's batches are one process's, shared out over the ranks."""
    given = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)
    return any(isinstance(each, DistributedSamplerWrapper) for each in given)


def _takes_all(sampler: Any, dataset: Any) -> bool:
    """Whether this is one of torch's two samplers that go through the dataset once, which torch can distribute."""
    once = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    return once and len(sampler) == len(dataset)


class UnrepeatedDistributedSampler(DistributedSampler[Any]):
    """Gives rank r the samples r, r + N, r + 2N ...; none comes twice, so ranks may differ by one sample."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.total_size = len(self.dataset)  # type: ignore[arg-type]
        self.num_samples = len(range(self.rank, self.total_size, self.num_replicas))

    def __iter__(self) -> Iterator[Any]:
        order: Iterable[int] = range(self.total_size)
        if self.shuffle:
            order = torch.randperm(
                self.total_size, generator=torch.Generator().manual_seed(self.seed + self.epoch)
            ).tolist()
        return islice(order, self.rank, None, self.num_replicas)


class DistributedSamplerWrapper(Sampler[Any]):
    """Shares out over the ranks what another sampler, or batch sampler, yields.

    Each rank draws the whole list, from the same seed, and takes every N-th of it. With `even` all ranks get equally
    many: the list is filled up from its beginning or, with `drop_last`, cut. A sampler without a length may be
    endless; it is drawn from as needed and must give the same on every rank by itself.
    """

    def __init__(
        self, sampler: Any, num_replicas: int, rank: int, *, seed: int = 0, drop_last: bool = False, even: bool = True
    ) -> None:
        self.sampler, self.num_replicas, self.rank = sampler, num_replicas, rank
        self.seed, self.drop_last, self.even = seed, drop_last, even
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(range(self.rank, self._size(len(self.sampler)), self.num_replicas))

    def _size(self, drawn: int) -> int:
        """How many of `drawn` indices are shared out."""
        shares = drawn / self.num_replicas
        return (math.floor(shares) if self.drop_last else math.ceil(shares)) * self.num_replicas if self.even else drawn

    def __iter__(self) -> Iterator[Any]:
        if math.isinf(loader_length(self.sampler)):
            return islice(self.sampler, self.rank, None, self.num_replicas)
        with isolate_rng():  # the draw is the same on all ranks, and leaves the random states of each as they are
            random.seed(self.seed + self.epoch)
            torch.manual_seed(self.seed + self.epoch)
            drawn = list(self.sampler)
        return islice(cycle(drawn), self.rank, self._size(len(drawn)), self.num_replicas)
