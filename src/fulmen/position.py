"""One pass over a loader, and how another process goes on in its midst, touching no sample that it skips if it can.

What a pass begins from (random states, samplers) is kept, so that it can be begun again. Workers get a seed with every
batch, because their random states cannot be read: batch i is made from the same random numbers whichever worker makes
it, and whatever that one made before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fulmen import seed
from fulmen.attributes import NOT_PLAIN, draw_anew, plain
from fulmen.checkpoint.packing import unpack
from fulmen.data import changed, is_known, with_batch_sampler
from fulmen.kept import GLOBAL, Stateless, changes, drawing_parts, has_state, moving_parts, put_back, put_parts_back
from fulmen.warn import rank_zero_warn

_ran: WeakSet[DataLoader[Any]] = WeakSet()
"""Loaders whose persistent workers were at work before this process; to start them draws no number again."""


class Pass:
    """One pass over a loader that is not combined of several."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.begun: dict[str, Any] = {}

    def begin(self, salt: str) -> Iterator[Any]:
        """The loader's iterator; `salt` makes the workers' seeds other ones than in other passes."""
        self.begun = self._beginning(salt)
        return self._start(0)

    def _beginning(self, salt: str) -> dict[str, Any]:
        states = seed.capture()
        digest = sha256(bytes(states["torch"].tolist()) + salt.encode()).hexdigest()
        return {"rng": states, "seed": digest, "loader": state_of_all(self.loader)}

    @property
    def replays(self) -> bool:
        """Whether batches that were used are made once more."""
        loader = self.loader
        return not (has_state(loader) or skips(loader) or has_state(getattr(loader, "dataset", None)))

    def note_first(self) -> None:
        """The first batch comes next, and something may have drawn numbers since the iterator was made."""
        self.begun |= {"first_rng": seed.capture(), "first": state_of_all(self.loader)["parts"]}

    def state_dict(self, used: int) -> dict[str, Any]:
        """Where the pass stands when so many batches were used."""
        own = self.loader.state_dict() if has_state(self.loader) and not skips(self.loader) else None
        state = {"begun": self.begun, "own": own, "now": state_of_all(self.loader)["parts"]}
        if isinstance(lists := _lists(self.loader), Lists) and lists.drawn is not None:
            ahead = plain(list(lists.drawn)[-(lists.number - used) :] if lists.number > used else [])
            state["ahead"] = [] if ahead is NOT_PLAIN else ahead
        return state

    def resume(self, state: dict[str, Any], skip: int) -> Iterator[Any]:
        """The iterator that goes on behind the first `skip` batches of the pass that `state` was taken of."""
        self.begun = state["begun"] or self._beginning("")  # the file may be another framework's, that tells nothing
        seed.restore(self.begun["rng"])
        put_all_back(self.loader, self.begun["loader"])
        if state["own"] is not None and has_state(self.loader):
            self.loader.load_state_dict(state["own"])
            return self._start(0)
        if "own" in state["now"].get(".dataset", ()) and not skips(self.loader):
            put_back(self.loader.dataset, state["now"][".dataset"], anew=True)
            return self._start(0)
        iterator = self._start(skip, unpack(state.get("ahead", []), False, ""))
        put_parts_back(moving_parts(self.loader), state["now"], (".dataset", ".collate_fn", GLOBAL))
        return iterator

    def _start(self, skip: int, ahead: Iterable[Any] = ()) -> Iterator[Any]:
        loader = self.loader
        if skip and skips(loader) and not isinstance(_lists(loader), Lists):
            loader = with_batch_sampler(loader, Lists(_lists(loader), for_workers=False))
        lists = _lists(loader)
        by_lists = isinstance(lists, Lists) and skips(loader)
        if isinstance(lists, Lists):
            lists.begin(self.begun["seed"], skip if by_lists else 0, ahead)
        iterator = _started(loader)
        iterator = _of_itself(iterator) if iterator is loader else iterator
        if skip and "first_rng" in self.begun:
            seed.restore(self.begun["first_rng"])
            put_parts_back(moving_parts(self.loader), self.begun["first"], ())
        if by_lists:
            lists.catch_up()
        else:
            _skip(iterator, loader, skip)
        return iterator


def _started(loader: Any) -> Iterator[Any]:
    if not _ran_before(loader) or is_running(loader):
        return iter(loader)
    _ran.discard(loader)
    if isinstance(lists := _lists(loader), Lists):
        lists.waits = True
    own, loader.generator = loader.generator, torch.Generator()  # the workers' seed comes from here, to no effect
    try:
        return iter(loader)
    finally:
        loader.generator = own


def _of_itself(loader: Iterator[Any]) -> Iterator[Any]:
    """One that is its own iterator may begin anew where a loop asks it for one once more."""
    end = object()
    while (batch := next(loader, end)) is not end:
        yield batch


def _skip(iterator: Iterator[Any], loader: Any, skip: int) -> None:
    if skip:
        rank_zero_warn(
            f"To go on where the run stood, the first {skip} batches of {type(loader).__name__} are loaded once more "
            "and thrown away, for it has no state_dict and load_state_dict. A DataLoader over a dataset with "
            "__getitem__, or torchdata's StatefulDataLoader, goes on at once. An order that it draws as it goes needs "
            "a generator of its own to be the same again: the model draws from the global ones in between. What the "
            "model takes part in making, as in rollouts, is made with its weights of now."
        )
    for _ in range(skip):
        next(iterator, None)


# ---- kinds of loaders


def is_standard(loader: Any) -> bool:
    """Whether this is a DataLoader that asks its dataset for what its (batch) sampler says, and nothing else."""
    return isinstance(loader, DataLoader) and type(loader).__iter__.__module__.startswith(("torch.", "torchdata."))


def skips(loader: Any) -> bool:
    """Whether batches can be skipped without a sample being touched."""
    if not is_standard(loader) or isinstance(loader.dataset, IterableDataset):
        return False
    return not (has_state(loader) and hasattr(loader.dataset, "state_dict"))


def is_running(loader: Any) -> bool:
    return getattr(loader, "persistent_workers", False) and getattr(loader, "_iterator", None) is not None


def end_workers(loader: Any) -> None:
    """Persistent workers of a copy that was made for a run; garbage collection would wait seconds for each of them."""
    if is_running(loader) and isinstance(_lists(loader), Lists):
        loader._iterator._shutdown_workers()
        loader._iterator = None


def _ran_before(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and loader in _ran


def _lists(loader: Any) -> Any:
    """What yields the lists of indices, or single indices where a loader makes no batches."""
    if not isinstance(loader, DataLoader):
        return None
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


# ---- lists of indices


def numbered(loader: Any) -> Any:
    """`loader` with its lists of indices numbered, if it has workers to seed."""
    if not is_standard(loader) or not loader.num_workers:
        return loader
    if has_state(loader) and not skips(loader):  # its own state counts on its own samplers
        return loader
    new = with_batch_sampler(loader, Lists(_lists(loader), for_workers=True, ahead=_ahead(loader)))
    drawing = drawing_parts(loader.collate_fn)
    if drawing:
        return changed(new, worker_init_fn=WorkerStart(loader.worker_init_fn, drawing))
    return new


def _ahead(loader: Any) -> int:
    """How many lists may be drawn before they are used; 0 where that changes nothing."""
    return 0 if is_known(loader) else loader.num_workers * (loader.prefetch_factor or 2) + 2


class Lists(Stateless):
    """A batch sampler that can leave out its first lists of indices, and sends a seed with each of the others.

    They are drawn when the first list is asked for, or by `catch_up`: not before the loader's iterator has drawn its
    seed, as in a pass from the beginning.
    """

    def __init__(self, inner: Any, for_workers: bool, ahead: int = 0) -> None:
        self.inner, self.for_workers = inner, for_workers
        self.drawn: deque[Any] | None = deque(maxlen=ahead) if ahead else None  # the last ones, not all used by now
        self.known: list[Any] = []  # those that had been drawn ahead
        self.seed, self.number, self.left = "", 0, 0
        self.waits = False  # a loader that starts workers begins the lists twice, with workers at work it does once

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def begin(self, seed: str, skip: int, ahead: Iterable[Any] = ()) -> None:
        self.seed, self.number, self.left, self.known = seed, skip, skip, list(ahead)
        if self.drawn is not None:
            self.drawn.clear()

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Lists:
        if not self.waits:
            self.lists = iter(self.inner)
        self.waits = False
        return self

    def catch_up(self) -> None:
        while self.left:
            self.left -= 1
            next(self.lists, None)

    def __next__(self) -> Any:
        if self.left:
            self.catch_up()
        indices = next(self.lists)
        if not self.for_workers:
            return indices
        self.number += 1
        if self.drawn is not None:
            indices = self.known.pop(0) if self.known else indices
            self.drawn.append(indices)
        return Seeded(indices, f"{self.seed} {self.number}")


class Seeded:
    """Indices on their way to a worker, in which they turn into what they were, and its random numbers begin anew."""

    def __init__(self, indices: Any, seed: str) -> None:
        self.indices, self.seed = indices, seed

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.indices, self.seed)


class WorkerStart:
    """A worker_init_fn that also tells the worker what its collate_fn draws from."""

    def __init__(self, own: Callable[[int], None] | None, drawing: dict[str, Any]) -> None:
        self.own, self.drawing = own, drawing

    def __call__(self, worker_id: int) -> None:
        _in_worker.update({f"collate_fn{path}": part for path, part in self.drawing.items()})
        _in_worker.update(_of_dataset())
        if self.own is not None:
            self.own(worker_id)


_in_worker: dict[str, Any] = {}
"""In a worker, the parts of its dataset and, if it draws, of its collate_fn."""


def _of_dataset() -> dict[str, Any]:
    worker = get_worker_info()
    return {} if worker is None else moving_parts(worker.dataset) or {"": worker.dataset}


def _arrive(indices: Any, text: str) -> Any:
    seed.seed_from(text)
    if not _in_worker:
        _in_worker.update(_of_dataset())
    for path, part in _in_worker.items():
        draw_anew(part, f"{text} {path}")
    return indices


# ---- what a loader and its parts keep as they go


def state_of_all(loader: Any) -> dict[str, Any]:
    return {
        "parts": {path: changes(part) for path, part in moving_parts(loader).items()},
        "running": is_running(loader) or _ran_before(loader),
    }


def put_all_back(loader: Any, state: dict[str, Any]) -> None:
    put_parts_back(moving_parts(loader), state["parts"])
    if isinstance(loader, DataLoader):
        (_ran.add if state["running"] else _ran.discard)(loader)
