"""CombinedLoader: several loaders at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

from fulmen.data import loader_length
from fulmen.errors import nearest
from fulmen.tree import rebuild

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
LENGTHS: dict[str, Callable[[list[int | float]], int | float]] = {
    "min_size": lambda lengths: min(lengths, default=0),
    "max_size_cycle": lambda lengths: max(lengths, default=0),
    "max_size": lambda lengths: max(lengths, default=0),
    "sequential": sum,
}
END = object()


class CombinedLoader(Iterable[Any]):
    """Combines loaders, in any nesting of dicts, lists and tuples; yields `(batch, batch_idx, dataloader_idx)`.

    `mode` says what one pass is:

    - "min_size": a batch of each, until the shortest ends;
    - "max_size_cycle": until the longest ends, the others start anew;
    - "max_size": until the longest ends, None in the place of the others;
    - "sequential": one loader after the other.

    >>> loader = CombinedLoader({"a": [1, 2, 3], "b": ["x", "y"]}, "max_size_cycle")
    >>> [batch for batch, batch_idx, dataloader_idx in loader]
    [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}, {'a': 3, 'b': 'x'}]
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in LENGTHS:
            raise ValueError(f"mode={mode!r} must be one of {list(LENGTHS)}.{nearest(mode, LENGTHS)}")
        self.mode = mode
        self._flattened: list[Any] = []
        self._shape = _replaced(iterables, _is_loader, self._number)
        self._limits: list[int | float] | None = None
        self._iterator: Iterator[tuple[Any, int, int]] | None = None
        self._start: dict[str, Any] = self._beginning()
        self._at: dict[str, Any] = self._start

    def _number(self, loader: Any) -> int:
        self._flattened.append(loader)
        return len(self._flattened) - 1

    def _shaped(self, leaves: list[Any]) -> Any:
        """`leaves`, one for each loader, in the nesting of the loaders."""
        return _replaced(self._shape, _is_index, leaves.__getitem__)

    @property
    def iterables(self) -> Any:
        """The loaders as they were given."""
        return self._shaped(self._flattened)

    @property
    def flattened(self) -> list[Any]:
        """The loaders in a row; setting it replaces them one by one."""
        return self._flattened

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flattened):
            raise ValueError(f"flattened has {len(self._flattened)} loaders, and cannot be set to {len(loaders)}.")
        self._flattened = list(loaders)

    @property
    def sampler(self) -> Any:
        """The samplers, in the nesting of the loaders; None for those that have none."""
        return self._shaped([getattr(loader, "sampler", None) for loader in self._flattened])

    @property
    def batch_sampler(self) -> Any:
        """The batch samplers, in the nesting of the loaders; None for those that have none."""
        return self._shaped([getattr(loader, "batch_sampler", None) for loader in self._flattened])

    @property
    def limits(self) -> list[int | float] | None:
        """At most how many batches of each loader count; set to a list, or to one number for all."""
        return self._limits

    @limits.setter
    def limits(self, limits: int | float | list[int | float] | None) -> None:
        if isinstance(limits, (int, float)):
            limits = [limits] * len(self._flattened)
        if limits is not None and len(limits) != len(self._flattened):
            raise ValueError(f"limits={limits} has {len(limits)} numbers for {len(self._flattened)} loaders.")
        self._limits = limits

    def _length(self) -> int | float:
        limits = self._limits or [math.inf] * len(self._flattened)
        lengths = [min(loader_length(loader), limit) for loader, limit in zip(self._flattened, limits, strict=True)]
        return LENGTHS[self.mode](lengths)

    def __len__(self) -> int:
        length = self._length()
        if isinstance(length, float) and math.isinf(length):
            raise TypeError(
                f"This CombinedLoader has no length: with mode={self.mode!r} a loader without one decides it."
            )
        return int(length)

    def __iter__(self) -> CombinedLoader:
        self._at, self._start = self._start, self._beginning()
        self._iterator = self._one_after_the_other() if self.mode == "sequential" else self._side_by_side()
        return self

    def __next__(self) -> tuple[Any, int, int]:
        if self._iterator is None:
            raise RuntimeError("This CombinedLoader is not being iterated over: call iter(combined_loader) first.")
        return next(self._iterator)

    def reset(self) -> None:
        """Drop the iterators, and with them the loaders' worker processes."""
        self._iterator = None
        for loader in self._flattened:
            if getattr(loader, "_iterator", None) is not None:  # a DataLoader's persistent workers
                loader._iterator = None

    def _one_after_the_other(self) -> Iterator[tuple[Any, int, int]]:
        at = self._at
        for index, limit in enumerate(self._limits or [math.inf] * len(self._flattened)):
            if index < at["dataloader_idx"]:
                continue
            at["dataloader_idx"] = index
            if at["batch_idx"] < limit:
                left = None if math.isinf(limit) else int(limit) - at["batch_idx"]
                for batch in islice(self._flattened[index], left):
                    at["batch_idx"] += 1
                    yield batch, at["batch_idx"] - 1, index
            at["batch_idx"] = 0

    def _side_by_side(self) -> Iterator[tuple[Any, int, int]]:
        """The loaders' iterators are made at once, not at the first batch."""
        iterators = [iter(loader) for loader in self._flattened]
        return self._together(iterators, math.inf if self._limits is None else self._length())

    def _together(self, iterators: list[Iterator[Any]], total: int | float) -> Iterator[tuple[Any, int, int]]:
        at = self._at
        while at["batch_idx"] < total:
            batches = self._draw(iterators, at["done"])
            if batches is None:
                return
            at["batch_idx"] += 1
            yield self._shaped(batches), at["batch_idx"] - 1, 0

    def _draw(self, iterators: list[Iterator[Any]], done: list[bool]) -> list[Any] | None:
        """A batch of each loader; None at the end. `done` marks the loaders that have come to their end once."""
        idle = self.mode == "max_size"
        batches: list[Any] = []
        for iterator, ended in zip(iterators, done, strict=True):
            batches.append(END if idle and ended else next(iterator, END))
            if batches[-1] is END and self.mode == "min_size":
                return None
        missing = [index for index, batch in enumerate(batches) if batch is END]
        for index in missing:
            done[index] = True
        if all(done):
            return None
        for index in missing:
            if idle:
                batches[index] = None
                continue
            iterators[index] = iter(self._flattened[index])
            batches[index] = next(iterators[index], END)
            if batches[index] is END:  # an empty loader can never give its part
                return None
        return batches

    def _beginning(self) -> dict[str, Any]:
        return {"batch_idx": 0, "dataloader_idx": 0, "done": [False] * len(self._flattened)}

    def state_dict(self) -> dict[str, Any] | None:
        """Where this pass stands, if every loader can tell where it stands itself, else None."""
        if not self._flattened or not all(hasattr(loader, "load_state_dict") for loader in self._flattened):
            return None
        states = [loader.state_dict() for loader in self._flattened]
        return {**self._at, "done": list(self._at["done"]), "loaders": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next pass goes on where the one stood that `state` was taken of."""
        states = state["loaders"]
        if len(states) != len(self._flattened):
            raise ValueError(f"The state is one of {len(states)} loaders, but there are {len(self._flattened)}.")
        self._start = {name: state[name] for name in ("batch_idx", "dataloader_idx")} | {"done": list(state["done"])}
        for loader, loader_state in zip(self._flattened, states, strict=True):
            loader.load_state_dict(loader_state)


def _is_loader(node: Any) -> bool:
    """Anything but a nesting of loaders; a list of things that cannot be iterated over is itself a loader."""
    if not isinstance(node, (dict, list, tuple)) or not node:
        return True
    parts = node.values() if isinstance(node, dict) else node
    return not isinstance(node, dict) and all(isinstance(part, str) or not isinstance(part, Iterable) for part in parts)


def _is_index(node: Any) -> bool:
    return type(node) is int


def _replaced(node: Any, is_leaf: Callable[[Any], bool], new: Callable[[Any], Any]) -> Any:
    if is_leaf(node):
        return new(node)
    parts = node.values() if isinstance(node, dict) else node
    return rebuild(node, [_replaced(part, is_leaf, new) for part in parts])
