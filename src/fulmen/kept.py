"""What the user's objects keep in plain attributes as they go, random generators included, without a state_dict."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from types import FunctionType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from fulmen.checkpoint.packing import MARK, Packer, unpack
from fulmen.warn import warn_once

BELOW = ("batch_sampler", "sampler", "inner", "dataset", "datasets", "transform", "transforms", "collate_fn")
"""Where the parts of a loader lie that may change as it is iterated over; the program's own may lie anywhere."""
MOST_PARTS = 100
OURS, STANDARD = (os.path.dirname(file) + os.sep for file in (__file__, os.__file__))
OTHERS = f"{os.sep}site-packages{os.sep}"
GRAD, NOT_PLAIN, OF_MODULES = ".requires_grad", object(), frozenset(vars(torch.nn.Module()))
STATE, NEW = "", object()
NOTHING: dict[str, Any] = {"rng": {}, "counters": {}}
NOTED, MOST = 2**12, 2**16
"""Elements of an attribute that is looked after, before the run and in a checkpoint."""
_FLAT = frozenset((type(None), bool, int, float, complex))


class Noted(NamedTuple):
    """An object before the run: what its attributes were, and those of them that can change in place."""

    of: Any
    values: dict[str, Any]
    objects: dict[str, Callable[[], Any]]


_first: dict[int, Noted] = {}
"""By the object's id: not all have a hash."""


class Stateless:
    """A part of ours that keeps nothing of its own."""


def has_state(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def moving_parts(root: Any) -> dict[str, Any]:
    """What a loader and its samplers and, in this process, its dataset are made of; by where they lie."""
    is_data = isinstance(root, (DataLoader, Dataset))
    return _walk([("", root)], is_data, ()) if is_data else {}


def below(root: Any, known: set[int]) -> dict[str, Any]:
    """What an object of the user's holds that can keep something: objects of the program, or with a state_dict.

    Those in `known` are kept elsewhere.
    """
    return _walk(_held(root, "", lambda name, each: _keeps(each)), False, known)


def _walk(queue: list[tuple[str, Any]], is_data: bool, known: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while queue and len(found) < MOST_PARTS:
        path, part = queue.pop(0)
        none = isinstance(part, (torch.Tensor, type, FunctionType)) or not hasattr(part, "__dict__")
        none = none or id(part) in known or any(part is other for other in found.values())
        if none or (isinstance(part, torch.nn.Module) if is_data else _is_ours(part)):
            continue
        found[path] = part
        if not is_data and has_state(part):
            continue
        is_loader = isinstance(part, DataLoader)
        names = () if not is_data else BELOW[:2] if is_loader and part.num_workers else BELOW

        def wanted(name: str, each: Any, names: Any = names, is_loader: bool = is_loader) -> bool:
            return name in names or (_is_users(each) and not is_loader if is_data else _keeps(each))

        queue += _held(part, path, wanted)
    return found


def _held(part: Any, path: str, wanted: Any) -> list[tuple[str, Any]]:
    found = []
    for name, held in _attributes(part).items():
        chosen = [each for each in _several(held) if wanted(name, each)]
        found += [(f"{path}.{name}{number or ''}", each) for number, each in enumerate(chosen)]
    return found


def _several(held: Any, depth: int = 3) -> list[Any]:
    """What lies in lists and dicts, also in each other."""
    within = list(held.values()) if type(held) is dict else held
    if type(within) not in (list, tuple):
        return [held]
    return [each for one in within[:MOST_PARTS] for each in _several(one, depth - 1)] if depth else []


def _keeps(part: Any) -> bool:
    return not _is_ours(part) and (_is_users(part) or has_state(part))


def _is_users(part: Any) -> bool:
    """Whether its class is of the program itself, or gives samples or their order."""
    file = getattr(sys.modules.get(type(part).__module__), "__file__", None) or os.__file__
    is_known = any(place in file for place in (OURS, STANDARD, OTHERS)) and type(part).__module__ != "__main__"
    return not is_known or isinstance(part, (Sampler, Dataset))


def _is_ours(part: Any) -> bool:
    """Whether it is a part of a trainer, or data, which are kept otherwise."""
    data = isinstance(part, (DataLoader, Dataset, Sampler))
    return data or any(kind.__module__.startswith("fulmen.") for kind in type(part).__mro__)


def put_parts_back(parts: dict[str, Any], states: dict[str, Any], own: Any = "", anew: bool = True) -> None:
    """Those with a state_dict only below `own`: it would let a sampler begin elsewhere."""
    for path in parts.keys() & states.keys():
        if path.startswith(own) or "own" not in states[path]:
            put_back(parts[path], states[path], anew)


def watch(*parts: Any, again: bool = True) -> None:
    """Note the attributes of objects before the run: those that the run does not change are the user's.

    What is large by then is data, and left alone. Without `again` what was noted before stands.
    """
    for gone in [number for number, noted in _first.items() if noted.of() is None]:
        del _first[gone]
    for part in parts:
        if not isinstance(part, (DataLoader, Stateless)) and (again or _noted(part) is None):
            with suppress(TypeError):  # of what nothing can refer to
                _first[id(part)] = note(part)


def note(part: Any) -> Noted:
    attributes = _attributes(part)
    values = {name: _plain(value, Stamp, NOTED) for name, value in attributes.items()}
    objects = {n: v for n, v in attributes.items() if values[n] is not NOT_PLAIN and hasattr(v, "__setitem__")}
    objects = {n: ref(v) if isinstance(v, torch.Tensor) else lambda v=v: v for n, v in objects.items()}
    for name in [n for n, v in attributes.items() if isinstance(v, _BaseDataLoaderIter)]:
        warn_once(
            f"Checkpoints leave out where the iterator {type(part).__name__}.{name} stands: a run that goes on begins "
            "it anew. A second loader can be given to fit beside the first one: fit(model, [loader, other])."
        )
    values[STATE] = _stamps(part) if isinstance(part, torch.nn.Module) else NOT_PLAIN
    return Noted(ref(part), values, objects)


def changes(part: Any, asked: bool = True, since: Noted | None = None) -> dict[str, Any]:
    """State of a part as plain data: what it says itself, else its random generators and the attributes that moved."""
    noted = since or _noted(part)
    if asked and has_state(part) and not isinstance(part, (DataLoader, Stateless)):
        still = noted is not None and isinstance(part, torch.nn.Module) and noted.values[STATE] == _stamps(part)
        return {} if still else {"own": part.state_dict()}
    attributes = {} if isinstance(part, Stateless) else _attributes(part)
    counters: dict[str, Any] = {}
    values = {} if noted is None else noted.values
    for name, value in attributes.items() if values else ():
        first = values.get(name, NEW)
        if first is not NOT_PLAIN and not (first is not NEW and _same(first, value, Stamp)):
            held = _plain(value)
            if held is not NOT_PLAIN:
                counters[name] = held
                continue
            if first is not NEW and isinstance(value, (list, dict, torch.Tensor)):
                warn_once(f"Checkpoints leave out {type(part).__name__}.{name}: it is too large, or not plain data.")
            values[name] = NOT_PLAIN  # not tried again
    generators = {name: state for name, value in attributes.items() if (state := _packed(value)) is not None}
    objects = {} if noted is None else noted.objects
    in_place = [name for name in counters if name in objects and attributes[name] is objects[name]()]
    return {"rng": generators, "counters": counters, "in_place": in_place}


def put_back(part: Any, state: dict[str, Any], anew: bool) -> None:
    """Let the part be as it was then; with `anew` also where only this process has changed it."""
    if "own" in state:
        if has_state(part):
            part.load_state_dict(state["own"])
        return
    attributes, noted = _attributes(part), _noted(part)
    for name in attributes.keys() & state["rng"].keys():
        _unpack(attributes[name], state["rng"][name])
    in_place, counters = state.get("in_place", ()), state["counters"]
    for name, held in {**(noted.values if noted and anew else {}), **counters}.items():
        copy = NOT_PLAIN if held is NOT_PLAIN else _plain(held)  # none of a stamp
        if copy is NOT_PLAIN or (name in attributes and _same(held, attributes[name])):
            continue
        value = unpack(copy, False, "")
        if name.endswith(GRAD):
            part._parameters[name[: -len(GRAD)]].requires_grad_(value)
        elif not ((name in in_place or name not in counters) and _refilled(attributes.get(name), value)):
            setattr(part, name, value)


def holds(part: Any, names: Any) -> dict[str, Any]:
    """The values of some attributes, to be put back."""
    held = {name: _plain(value) for name, value in _attributes(part).items() if name in names}
    return {"rng": {}, "counters": held, "in_place": list(held)}


def _refilled(old: Any, new: Any) -> bool:
    """Give a container, which others may hold too, its content of then."""
    if type(old) is not type(new) or not hasattr(old, "__setitem__"):
        return False
    if hasattr(old, "shape"):
        if old.shape == new.shape and old.dtype == new.dtype:
            old[...] = new
        return old.shape == new.shape and old.dtype == new.dtype
    old.clear()
    (old.extend if hasattr(old, "extend") else old.update)(new)
    return True


def _stamps(part: Any) -> Any:
    return [Stamp(tensor) for tensor in (*part.parameters(), *part.buffers())]


def _noted(part: Any) -> Noted | None:
    noted = _first.get(id(part))
    return noted if noted is not None and noted.of() is part else None


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


def draw_anew(part: Any, text: str) -> None:
    """Let the random generators that a part keeps begin from a seed made of `text`."""
    for name, value in _attributes(part).items():
        if _packed(value) is not None:
            number = int.from_bytes(sha256(f"{text} {name}".encode()).digest()[:4], "little")
            if isinstance(value, torch.Generator):
                value.manual_seed(number)
            elif hasattr(value, "bit_generator"):
                value.bit_generator.state = type(value.bit_generator)(number).state
            else:
                value.seed(number)
