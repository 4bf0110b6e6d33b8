"""CombinedLoader: several loaders at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

from fulmen.data import loader_length
from fulmen.errors import nearest
from fulmen.position import Pass
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
        self._start: dict[str, Any] | None = None  # where the next pass begins, if not at the beginning
        self._pass = CombinedPass(self)

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
        self._iterator = CombinedPass(self).begin("")
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

    def state_dict(self) -> dict[str, Any] | None:
        """Where this pass stands, if every loader can tell where it stands itself, else None."""
        if not self._flattened or not all(hasattr(loader, "load_state_dict") for loader in self._flattened):
            return None
        states = [loader.state_dict() for loader in self._flattened]
        return {**self._pass.at, "done": list(self._pass.at["done"]), "loaders": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next pass goes on where the one stood that `state` was taken of."""
        states = state["loaders"]
        if len(states) != len(self._flattened):
            raise ValueError(f"The state is one of {len(states)} loaders, but there are {len(self._flattened)}.")
        self._start = {name: state[name] for name in ("batch_idx", "dataloader_idx")} | {"done": list(state["done"])}
        for loader, loader_state in zip(self._flattened, states, strict=True):
            loader.load_state_dict(loader_state)


class CombinedPass:
    """One pass over the loaders of a CombinedLoader, which another process can go on with."""

    def __init__(self, loader: CombinedLoader) -> None:
        self.loader, self.loaders = loader, loader.flattened
        self.at: dict[str, Any] = {"batch_idx": 0, "dataloader_idx": 0, "done": [False] * len(self.loaders)}
        self.passes: list[Pass | None] = [None] * len(self.loaders)
        self.counts = [0] * len(self.loaders)  # batches of each loader's own pass
        self.given = 0
        self.salt = ""

    def begin(self, salt: str) -> Iterator[tuple[Any, int, int]]:
        """The iterators side by side are made at once, not at the first batch."""
        loader, self.salt = self.loader, salt
        if loader._start is not None:
            self.at, loader._start = loader._start, None
        loader._pass = self
        if loader.mode == "sequential":
            return self._one_after_the_other(None)
        return self._side_by_side([self._open(index) for index in range(len(self.loaders))])

    def _open(self, index: int) -> Iterator[Any]:
        begun = self.passes[index] = Pass(self.loaders[index])
        self.counts[index] = 0
        return begun.begin(f"{self.salt} {self.given} {index}")

    def _one_after_the_other(self, iterator: Iterator[Any] | None) -> Iterator[tuple[Any, int, int]]:
        at = self.at
        for index in range(at["dataloader_idx"], len(self.loaders)):
            at["dataloader_idx"] = index
            limit = math.inf if self.loader.limits is None else self.loader.limits[index]
            if at["batch_idx"] < limit:
                left = None if math.isinf(limit) else int(limit) - at["batch_idx"]
                for batch in islice(self._open(index) if iterator is None else iterator, left):
                    at["batch_idx"] += 1
                    self.counts[index] += 1
                    self.given += 1
                    yield batch, at["batch_idx"] - 1, index
            at["batch_idx"], iterator = 0, None

    def _side_by_side(self, iterators: list[Iterator[Any]]) -> Iterator[tuple[Any, int, int]]:
        total = math.inf if self.loader.limits is None else self.loader._length()
        at = self.at
        while at["batch_idx"] < total:
            batches = self._draw(iterators, at["done"])
            if batches is None:
                return
            at["batch_idx"] += 1
            self.given += 1
            yield self.loader._shaped(batches), at["batch_idx"] - 1, 0

    def _draw(self, iterators: list[Iterator[Any]], done: list[bool]) -> list[Any] | None:
        """A batch of each loader; None at the end. `done` marks the loaders that have come to their end once."""
        idle = self.loader.mode == "max_size"
        batches: list[Any] = []
        for index, (iterator, ended) in enumerate(zip(iterators, done, strict=True)):
            if not self.counts[index]:
                self.passes[index].note_first()  # type: ignore[union-attr]
            batches.append(END if idle and ended else next(iterator, END))
            self.counts[index] += batches[-1] is not END
            if batches[-1] is END and self.loader.mode == "min_size":
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
            iterators[index] = self._open(index)
            batches[index] = next(iterators[index], END)
            self.counts[index] = 1
            if batches[index] is END:  # an empty loader can never give its part
                return None
        return batches

    @property
    def replays(self) -> bool:
        return any(begun is not None and begun.replays for begun in self.passes)

    def state_dict(self, used: int) -> dict[str, Any]:
        pairs = zip(self.passes, self.counts, strict=True)
        passes = [None if begun is None else begun.state_dict(count) for begun, count in pairs]
        numbers = {"counts": list(self.counts), "given": self.given, "salt": self.salt}
        return {**self.at, "done": list(self.at["done"]), "passes": passes, **numbers}

    def resume(self, state: dict[str, Any], skip: int) -> Iterator[tuple[Any, int, int]]:
        """The iterator behind the first `skip` batches, which are all that were given out or all but the last."""
        if "passes" not in state:
            return self._elsewhere(state["own"], skip)
        self.at = {name: state[name] for name in ("batch_idx", "dataloader_idx")} | {"done": list(state["done"])}
        self.counts, self.given, self.salt = list(state["counts"]), skip, state["salt"]
        self.loader._pass = self
        index, alone = self.at["dataloader_idx"], self.loader.mode == "sequential"
        if state["given"] > skip:
            self.at["batch_idx"] -= 1
            for i, begun in enumerate(state["passes"]):
                resting = begun is None or (self.loader.mode == "max_size" and self.at["done"][i])
                self.counts[i] -= not resting and (not alone or i == index)
        iterators: list[Any] = [None] * len(self.loaders)
        for i, begun in enumerate(state["passes"]):
            if begun is not None and (not alone or i == index):
                held = self.passes[i] = Pass(self.loaders[i])
                iterators[i] = held.resume(begun, self.counts[i])
        return self._one_after_the_other(iterators[index]) if alone else self._side_by_side(iterators)

    def _elsewhere(self, state: Any, skip: int) -> Iterator[tuple[Any, int, int]]:
        """From what another framework keeps: the loaders' own states, if they have some."""
        if state is not None:
            self.loader.load_state_dict(state)
        return islice(self.begin(""), 0 if state is not None else skip, None)


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
