"""One pass over a loader, and how another process goes on in its midst, touching no sample that it skips if it can.

What a pass begins from (random states, samplers) is kept, so that it can be begun again. Workers get a seed with every
batch, because their random states cannot be read: batch i is made from the same random numbers whichever worker makes
it, and whatever that one made before.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from fulmen import seed
from fulmen.checkpoint.packing import MARK, Packer, unpack
from fulmen.data import with_batch_sampler
from fulmen.warn import rank_zero_warn, warn_once

BELOW = ("batch_sampler", "sampler", "inner", "dataset", "datasets", "transform", "transforms", "collate_fn")
"""Where the parts of a loader lie that may change as it is iterated over; the program's own may lie anywhere."""
MOST_PARTS = 100
OURS, STANDARD = (os.path.dirname(file) + os.sep for file in (__file__, os.__file__))
OTHERS = f"{os.sep}site-packages{os.sep}"
GRAD, NOT_PLAIN, OF_MODULES = ".requires_grad", object(), frozenset(vars(torch.nn.Module()))
NOTED, MOST = 2**12, 2**16
"""Elements of an attribute that is looked after, before the run and in a checkpoint."""
_FLAT = frozenset((type(None), bool, int, float, complex))

_first: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
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

    def note_first(self) -> None:
        """The first batch comes next, and something may have drawn numbers since the iterator was made."""
        self.begun["first_rng"] = seed.capture()

    def state_dict(self) -> dict[str, Any]:
        """Where the pass stands, but for the number of batches that were used."""
        own = self.loader.state_dict() if has_state(self.loader) and not skips(self.loader) else None
        return {"begun": self.begun, "own": own, "now": state_of_all(self.loader)["parts"]}

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
        iterator = self._start(skip)
        put_parts_back(moving_parts(self.loader), state["now"], (".dataset", ".collate_fn"))
        return iterator

    def _start(self, skip: int) -> Iterator[Any]:
        loader = self.loader
        if skip and skips(loader) and not isinstance(_lists(loader), Lists):
            loader = with_batch_sampler(loader, Lists(_lists(loader), for_workers=False))
        lists = _lists(loader)
        by_lists = isinstance(lists, Lists) and skips(loader)
        if isinstance(lists, Lists):
            lists.begin(self.begun["seed"], skip if by_lists else 0)
        iterator = _started(loader)
        if skip and "first_rng" in self.begun:
            seed.restore(self.begun["first_rng"])
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


def _skip(iterator: Iterator[Any], loader: Any, skip: int) -> None:
    if skip:
        rank_zero_warn(
            f"To go on where the run stood, the first {skip} batches of {type(loader).__name__} are loaded once more "
            "and thrown away, for it has no state_dict and load_state_dict. A DataLoader over a dataset with "
            "__getitem__, or torchdata's StatefulDataLoader, goes on at once. An order that it draws as it goes needs "
            "a generator of its own to be the same again: the model draws from the global ones in between."
        )
    for _ in range(skip):
        next(iterator, None)


# ---- kinds of loaders


def has_state(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


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
    return with_batch_sampler(loader, Lists(_lists(loader), for_workers=True))


class Lists:
    """A batch sampler that can leave out its first lists of indices, and sends a seed with each of the others.

    They are drawn when the first list is asked for, or by `catch_up`: not before the loader's iterator has drawn its
    seed, as in a pass from the beginning.
    """

    def __init__(self, inner: Any, for_workers: bool) -> None:
        self.inner, self.for_workers = inner, for_workers
        self.seed, self.number, self.left = "", 0, 0
        self.waits = False  # a loader that starts workers begins the lists twice, with workers at work it does once

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def begin(self, seed: str, skip: int) -> None:
        self.seed, self.number, self.left = seed, skip, skip

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
        return Seeded(indices, f"{self.seed} {self.number}")


class Seeded:
    """Indices on their way to a worker, in which they turn into what they were, and its random numbers begin anew."""

    def __init__(self, indices: Any, seed: str) -> None:
        self.indices, self.seed = indices, seed

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.indices, self.seed)


def _arrive(indices: Any, text: str) -> Any:
    seed.seed_from(text)
    return indices


# ---- what samplers, datasets and other objects of the user's keep as they go


def moving_parts(root: Any) -> dict[str, Any]:
    """What a loader and its samplers and, in this process, its dataset are made of; by where they lie."""
    found: dict[str, Any] = {}
    queue = [("", root)] if isinstance(root, (DataLoader, Dataset)) else []
    while queue and len(found) < MOST_PARTS:
        path, part = queue.pop(0)
        none = isinstance(part, (torch.Tensor, torch.nn.Module, type, FunctionType)) or not hasattr(part, "__dict__")
        if none or any(part is other for other in found.values()):
            continue
        found[path] = part
        is_loader = isinstance(part, DataLoader)
        names = BELOW[:2] if is_loader and part.num_workers else BELOW
        for name, held in vars(part).items():
            several = held[:MOST_PARTS] if type(held) in (list, tuple) else [held]
            wanted = [each for each in several if name in names or (_is_users(each) and not is_loader)]
            queue += [(f"{path}.{name}{number or ''}", each) for number, each in enumerate(wanted)]
    return found


def _is_users(part: Any) -> bool:
    """Whether its class is of the program itself, or gives samples or their order."""
    file = getattr(sys.modules.get(type(part).__module__), "__file__", None) or os.__file__
    is_known = any(place in file for place in (OURS, STANDARD, OTHERS)) and type(part).__module__ != "__main__"
    return not is_known or isinstance(part, (Sampler, Dataset))


def state_of_all(loader: Any) -> dict[str, Any]:
    return {
        "parts": {path: changes(part) for path, part in moving_parts(loader).items()},
        "running": is_running(loader) or _ran_before(loader),
    }


def put_all_back(loader: Any, state: dict[str, Any]) -> None:
    put_parts_back(moving_parts(loader), state["parts"])
    if isinstance(loader, DataLoader):
        (_ran.add if state["running"] else _ran.discard)(loader)


def put_parts_back(parts: dict[str, Any], states: dict[str, Any], own: Any = "", anew: bool = True) -> None:
    """Those with a state_dict only below `own`: it would let a sampler begin elsewhere."""
    for path in parts.keys() & states.keys():
        if path.startswith(own) or "own" not in states[path]:
            put_back(parts[path], states[path], anew)


def watch(*parts: Any) -> None:
    """Note the attributes of objects before the run: those that the run does not change are the user's.

    What is large by then is data, and left alone.
    """
    for part in parts:
        with suppress(TypeError):  # of what has no hash
            if not isinstance(part, (DataLoader, Lists)):
                noted = {name: _plain(value, Stamp, NOTED) for name, value in _attributes(part).items()}
                _first[part] = noted | {"": NOT_PLAIN}


def changes(part: Any, asked: bool = True) -> dict[str, Any]:
    """State of a part as plain data: what it says itself, else its random generators and the attributes that moved."""
    if asked and has_state(part) and not isinstance(part, (DataLoader, Lists)):
        return {"own": part.state_dict()}
    attributes, first = {} if isinstance(part, Lists) else _attributes(part), _noted(part)
    counters: dict[str, Any] = {}
    for name, value in attributes.items() if first else ():
        if first.get(name) is not NOT_PLAIN and not (name in first and _same(first[name], value, Stamp)):
            held = _plain(value)
            if held is not NOT_PLAIN:
                counters[name] = held
                continue
            if name in first and isinstance(value, (list, dict, torch.Tensor)):
                warn_once(f"Checkpoints leave out {type(part).__name__}.{name}: it is too large, or not plain data.")
            first[name] = NOT_PLAIN  # not tried again
    generators = {name: state for name, value in attributes.items() if (state := _packed(value)) is not None}
    return {"rng": generators, "counters": counters}


def put_back(part: Any, state: dict[str, Any], anew: bool) -> None:
    """Let the part be as it was then; with `anew` also where only this process has changed it."""
    if "own" in state:
        if has_state(part):
            part.load_state_dict(state["own"])
        return
    attributes, first = _attributes(part), _noted(part) if anew else {}
    for name in attributes.keys() & state["rng"].keys():
        _unpack(attributes[name], state["rng"][name])
    for name, held in {**first, **state["counters"]}.items():
        copy = NOT_PLAIN if held is NOT_PLAIN else _plain(held)  # none of a stamp
        if copy is NOT_PLAIN or (name in attributes and _same(held, attributes[name])):
            continue
        if name.endswith(GRAD):
            part._parameters[name[: -len(GRAD)]].requires_grad_(held)
        else:
            setattr(part, name, unpack(copy, False, ""))


def _noted(part: Any) -> dict[str, Any]:
    with suppress(TypeError):
        return _first.get(part, {})
    return {}


def _attributes(part: Any) -> dict[str, Any]:
    if not isinstance(part, torch.nn.Module):
        return getattr(part, "__dict__", {})
    buffers = {name: part._buffers.get(name) for name in part._non_persistent_buffers_set}
    flags = {f"{name}{GRAD}": p.requires_grad for name, p in part._parameters.items() if p is not None}
    keeps = not type(part).__module__.startswith("torch.nn.")  # torch's layers have it all in their state_dict
    own = {name: value for name, value in vars(part).items() if name not in OF_MODULES} if keeps else {}
    return {**own, **buffers, **flags}


class Stamp:
    """Stands for a tensor as it is now, without a copy: equal to it until it is changed in place."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.version = ref(tensor), tensor._version

    def __eq__(self, other: object) -> bool:
        found = other.tensor() if isinstance(other, Stamp) else other
        if not isinstance(found, torch.Tensor) or found is not self.tensor():
            return False
        return self.version == (other.version if isinstance(other, Stamp) else found._version)

    __hash__ = None  # type: ignore[assignment]


class _Plain(Packer):
    """Copies plain data of moderate size, and refuses anything else."""

    def __init__(self, tensor: Any, left: int) -> None:
        super().__init__(tensor)
        self.left = left  # elements; flat lists, and tensors, may have 16 times as many

    def __call__(self, value: Any, *path: Any) -> Any:
        kind = type(value)
        if kind in (list, tuple) and _FLAT.issuperset(map(type, value)):
            self._takes(len(value) // 16)
            return value[:]
        if isinstance(value, torch.Tensor):
            self._takes(0 if self.tensor is Stamp else value.numel() // 16)
            if isinstance(value, torch.nn.Parameter) or (value.requires_grad and value.is_leaf):
                raise TypeError
        else:
            size = getattr(value, "nbytes", None) if kind.__module__ == "numpy" else None
            self._takes(size // 64 if size is not None else len(value) if hasattr(kind, "__len__") else 0)
        return super().__call__(value, *path)

    def _takes(self, number: int) -> None:
        self.left -= 1 + number
        if self.left < 0:
            raise TypeError

    def _plainer(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        raise TypeError


def _plain(value: Any, tensor: Any = None, most: int = MOST) -> Any:
    with suppress(TypeError, RuntimeError):
        return _Plain(tensor or _cloned, most)(value)
    return NOT_PLAIN


def _cloned(tensor: torch.Tensor) -> Any:
    copy = tensor.detach().clone()
    return copy if tensor.is_cpu else {MARK: "tensor", "value": [copy, str(tensor.device)]}


def _same(held: Any, value: Any, tensor: Any = None) -> bool:
    """Whether they are equal; with `Stamp`, `held` was noted with it, so a tensor is compared without being read."""
    with suppress(Exception):  # of tensors or arrays, which are not equal in one word
        if bool(held == value):
            return True
    if tensor is Stamp:
        return held == _plain(value, Stamp, NOTED)
    return _plain(held, _bytes) == _plain(value, _bytes) is not NOT_PLAIN


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.dtype, tensor.shape, tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _packed(value: Any) -> Any:
    """The state of a random generator as plain data; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return value.bit_generator.state
    return value.get_state(False) if numpy is not None and isinstance(value, numpy.random.RandomState) else None


def _unpack(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
