"""Batches of tensors and arrays taken out in one piece, where that gives what one sample after the other gives."""

from __future__ import annotations

import warnings
from array import array
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from fulmen import data


def batched(loader: Any) -> Any:
    """`loader`, or a copy of it that takes each batch out of its dataset at once, without collating samples.

    A copy only where its batches are the same, bit for bit: of torch's DataLoader with its own collate function, over
    a TensorDataset, tensor or NumPy array, or a Subset of one. Classes derived from these are left alone.
    """
    if type(loader) is not DataLoader or loader.batch_sampler is None or loader.collate_fn is not default_collate:
        return loader
    if not _is_same(loader.dataset):
        return loader
    return data.changed(loader, dataset=_view(loader.dataset), collate_fn=_as_it_is)


def is_batched(loader: Any) -> bool:
    """Whether `loader` is what `batched` makes."""
    return getattr(loader, "collate_fn", None) is _as_it_is


def kinds(loaders: list[Any]) -> list[str]:
    """The datasets whose batches are taken out at once, by the names of their classes."""
    parts = [part for loader in loaders for part in getattr(loader, "flattened", [loader]) if is_batched(part)]
    found = [part.dataset.rows if isinstance(part.dataset, WholeRows) else part.dataset for part in parts]
    return list(dict.fromkeys(NAMES.get(type(each), type(each).__name__) for each in found))


class WholeTensors(TensorDataset):
    def __getitems__(self, indices: Any) -> Any:
        return _batch(self, indices)


class WholeSubset(Subset[Any]):
    def __getitems__(self, indices: Any) -> Any:  # pyright: ignore - a batch, where torch has a list of samples
        return _batch(self, indices)


class WholeRows(Dataset[Any]):
    """A tensor or array itself."""

    __slots__ = ("rows",)

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __getitems__(self, indices: Any) -> Any:
        return _batch(self, indices)


VIEWS: dict[type, type] = {TensorDataset: WholeTensors, Subset: WholeSubset}
NAMES = {view: kind.__name__ for kind, view in VIEWS.items()}


def _view(dataset: Any) -> Any:
    """The dataset with `__getitems__`; a dataset and its view have the same attributes, whatever happens to them."""
    kind = VIEWS.get(type(dataset))
    if kind is None:
        return WholeRows(dataset)
    view = object.__new__(kind)
    view.__dict__ = dataset.__dict__
    return view


def _as_it_is(batch: Any) -> Any:
    return batch


def _batch(dataset: Any, indices: Any) -> Any:
    try:
        return _taken(dataset, indices)
    except (IndexError, RuntimeError, TypeError, ValueError):  # negative indices, or none that are right
        return default_collate([dataset[i] for i in indices])


def _taken(dataset: Any, indices: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset, indices = dataset.dataset, _within(dataset.indices, indices)
    if bool in map(type, indices):
        raise TypeError("a bool is a mask")
    numbers = array("q", indices)
    if isinstance(dataset, WholeRows):
        dataset = dataset.rows
    if not isinstance(dataset, (TensorDataset, Tensor)):
        return torch.from_numpy(dataset[numbers])
    where = torch.frombuffer(numbers, dtype=torch.int64)  # five times as fast as torch.tensor
    if isinstance(dataset, Tensor):
        return torch.index_select(dataset, 0, where.to(dataset.device))
    return [torch.index_select(t, 0, where if t.is_cpu else where.to(t.device)) for t in dataset.tensors]


def _within(held: Any, indices: Any) -> Any:
    """The indices that a Subset holds at these."""
    if hasattr(held, "tolist"):  # a tensor or an array
        return held[indices].tolist()
    found = itemgetter(*indices)(held)
    return found if len(indices) > 1 else (found,)


def _is_same(dataset: Any) -> bool:
    """Whether a batch taken at once is what collated samples are, for the first and the last sample."""
    inner = dataset
    while type(inner) is Subset:
        inner = inner.dataset
    rows = inner.tensors if type(inner) is TensorDataset else (inner,)
    if not all(map(_is_plain, rows)):
        return False
    try:
        probe = sorted({0, len(dataset) - 1})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's on arrays that cannot be written to
            return _are_same(_taken(_view(dataset), probe), default_collate([dataset[i] for i in probe]))
    except Exception:  # whatever it is, the loader itself tells the user
        return False


def _is_plain(rows: Any) -> bool:
    kind = type(rows)
    if kind is Tensor:
        lazy = rows.requires_grad or rows.is_conj() or rows.is_neg() or rows.is_quantized
        return rows.layout == torch.strided and not lazy and rows.dim() > 0 and rows.is_contiguous()
    return kind.__module__ == "numpy" and kind.__name__ in ("ndarray", "memmap") and rows.flags.c_contiguous


def _are_same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return type(one) is type(other) and all(map(_are_same, one, other))
    traits, others = ((type(t), t.dtype, t.device, t.shape, t.stride()) for t in (one, other))
    return traits == others and torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8))
