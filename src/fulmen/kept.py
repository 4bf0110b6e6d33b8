"""What the user's objects keep in plain attributes as they go, random generators included, without a state_dict."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from fulmen.attributes import (
    NOT_PLAIN,
    NOTED,
    Stamp,
    assign,
    attributes,
    copied,
    generator_state,
    keeps_any,
    plain,
    refilled,
    same,
    set_generator_state,
)
from fulmen.checkpoint.packing import unpack
from fulmen.warn import warn_once

BELOW = ("batch_sampler", "sampler", "inner", "dataset", "datasets", "transform", "transforms", "collate_fn")
"""Where the parts of a loader lie that may change as it is iterated over; the program's own may lie anywhere."""
MOST_PARTS = 100
GLOBAL = ".globals"
NEVER = (type(None), str, int, float, torch.Tensor, type, ModuleType)
OURS, STANDARD = (os.path.dirname(file) + os.sep for file in (__file__, os.__file__))
OTHERS = f"{os.sep}site-packages{os.sep}"
STATE, NEW = "", object()
NOTHING: dict[str, Any] = {"rng": {}, "counters": {}}


class Noted(NamedTuple):
    """An object before the run: what its attributes were, and those of them that can change in place."""

    of: Any
    values: dict[str, Any]
    objects: dict[str, Callable[[], Any]]


_first: dict[int, Noted] = {}
"""By the object's id: not all have a hash."""


class Stateless:
    """A part of ours that keeps nothing of its own."""


def by_kind(parts: list[Any]) -> dict[str, Any]:
    """With names that stay when the program, as it goes on, has others beside them."""
    kinds = [type(part).__qualname__ for part in parts]
    return {f"{kind} {kinds[:number].count(kind)}": parts[number] for number, kind in enumerate(kinds)}


def has_state(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def moving_parts(root: Any) -> dict[str, Any]:
    """What a loader and its samplers and, in this process, its dataset are made of; by where they lie."""
    is_own = _is_users(root) and hasattr(root, "__iter__") and not has_state(root)
    if not is_own and not isinstance(root, (DataLoader, Dataset)):
        return {}
    return drawing_parts(root)


def drawing_parts(root: Any) -> dict[str, Any]:
    """What it is made of, or a function has from around it, and the generators of the files that these are in."""
    parts = _walk([("", root)], True, ())
    return {**parts, **generators(parts.values())}


def generators(parts: Iterable[Any]) -> dict[str, Any]:
    """The random generators among the globals of the program's files that the parts are made in, as one more part."""
    made = {kind.__module__ for part in parts for kind in getattr(_made(part), "__mro__", (_made(part),))}
    held = {
        (file, name): value for file in made if _is_of_program(file) for name, value in vars(sys.modules[file]).items()
    }
    drawn = {f"{file}.{name}": value for (file, name), value in held.items() if generator_state(value) is not None}
    return {GLOBAL: SimpleNamespace(**drawn)} if drawn else {}


def below(root: Any, known: set[int]) -> dict[str, Any]:
    """What an object of the user's holds that can keep something: objects of the program, or with a state_dict.

    Those in `known` are kept elsewhere.
    """
    return _walk(_held(root, "", lambda name, each: _keeps(each)), False, known)


def _walk(queue: list[tuple[str, Any]], is_data: bool, known: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while queue and len(found) < MOST_PARTS:
        path, part = queue.pop(0)
        part = part.__self__ if isinstance(part, MethodType) else part
        none = not keeps_any(part)
        none = none or (isinstance(part, FunctionType) and not _is_users(part))
        none = none or id(part) in known or any(part is other for other in found.values())
        if none or (isinstance(part, torch.nn.Module) if is_data else _is_ours(part)):
            continue
        found[path] = part
        if not is_data and has_state(part):
            continue
        is_loader = isinstance(part, DataLoader)
        workers = getattr(part, "num_workers", 0) if is_loader else 0
        names = () if not is_data else BELOW[:2] if workers else BELOW

        def wanted(name: str, each: Any, names: Any = names, is_loader: bool = is_loader) -> bool:
            return name in names or (_is_users(each) and not is_loader if is_data else _keeps(each))

        queue += _held(part, path, wanted)
    return found


def _held(part: Any, path: str, wanted: Any) -> list[tuple[str, Any]]:
    found = []
    for name, held in attributes(part).items():
        chosen = [each for each in _several(held) if wanted(name, each)]
        found += [(f"{path}.{name}{number or ''}", each) for number, each in enumerate(chosen)]
    return found


def _several(held: Any, depth: int = 3) -> list[Any]:
    """What lies in lists and dicts, also in each other."""
    within = list(held.values()) if type(held) is dict else held
    if type(within) not in (list, tuple):
        return [] if isinstance(held, NEVER) else [held]
    return [each for one in within[:MOST_PARTS] for each in _several(one, depth - 1)] if depth else []


def _keeps(part: Any) -> bool:
    return not _is_ours(part) and (_is_users(part) or has_state(part))


def _is_users(part: Any) -> bool:
    """Whether it is made by the program itself, or gives samples or their order."""
    return _is_of_program(_made(part).__module__) or isinstance(part, (DataLoader, Sampler, Dataset, partial))


def _made(part: Any) -> Any:
    return part if isinstance(part, FunctionType) else type(part.__self__ if isinstance(part, MethodType) else part)


@cache
def _is_of_program(name: str | None) -> bool:
    file = getattr(sys.modules.get(name or ""), "__file__", None) or os.__file__
    return name == "__main__" or not any(place in file for place in (OURS, STANDARD, OTHERS))


def _is_ours(part: Any) -> bool:
    """Whether it is a part of a trainer, or data, which are kept otherwise."""
    data = isinstance(part, (DataLoader, Dataset, Sampler))
    return data or any(kind.__module__.startswith("fulmen.") for kind in type(part).__mro__)


def put_parts_back(parts: dict[str, Any], states: dict[str, Any], own: Any = "", anew: bool = True) -> None:
    """Those with a state_dict only below `own`: it would let a sampler begin elsewhere."""
    for path in parts.keys() & states.keys():
        if path.startswith(own) or "own" not in states[path]:
            put_back(parts[path], states[path], anew)


def forget() -> None:
    """Of objects that no weak reference can be made to, what was noted in an earlier run would keep them alive."""
    for number in [number for number, noted in _first.items() if not isinstance(noted.of, ref)]:
        del _first[number]


def watch(*parts: Any, again: bool = True, asked: bool = True) -> None:
    """Note the attributes of objects before the run: those that the run does not change are the user's.

    What is large by then is data, and left alone. Without `again` what was noted before stands; `asked`: see `changes`.
    """
    for gone in [number for number, noted in _first.items() if noted.of() is None]:
        del _first[gone]
    for part in parts:
        for name in [n for n, v in attributes(part).items() if isinstance(v, _BaseDataLoaderIter) and n != "_iterator"]:
            warn_once(
                f"Checkpoints leave out where the iterator {type(part).__name__}.{name} stands: a run that goes on "
                "begins it anew. A second loader can be given to fit beside the first one: fit(model, [loader, other])."
            )
        if not isinstance(part, (DataLoader, Stateless)) and (again or _noted(part) is None):
            _first[id(part)] = note(part, asked)


def watch_since(part: Any, noted: Noted | None) -> None:
    if noted is not None:
        _first[id(part)] = noted


def note(part: Any, asked: bool = True) -> Noted:
    now = attributes(part)
    values = {name: plain(value, Stamp, NOTED) for name, value in now.items()}
    objects = {n: v for n, v in now.items() if values[n] is not NOT_PLAIN and hasattr(v, "__setitem__")}
    objects = {n: ref(v) if isinstance(v, torch.Tensor) else lambda v=v: v for n, v in objects.items()}
    values[STATE] = _stamps(part) if asked and isinstance(part, torch.nn.Module) else NOT_PLAIN
    of = ref(part) if type(part).__weakrefoffset__ else lambda: part
    return Noted(of, values, objects)


def changes(part: Any, asked: bool = True, since: Noted | None = None) -> dict[str, Any]:
    """State of a part as plain data: what it says itself, else its random generators and the attributes that moved."""
    noted = since or _noted(part)
    if asked and has_state(part) and not isinstance(part, (DataLoader, Stateless)):
        still = noted is not None and isinstance(part, torch.nn.Module) and noted.values[STATE] == _stamps(part)
        return {} if still else {"own": copied(part.state_dict())}
    now = {} if isinstance(part, Stateless) else attributes(part)
    counters: dict[str, Any] = {}
    values = {} if noted is None else noted.values
    for name, value in now.items() if values else ():
        first = values.get(name, NEW)
        if first is not NOT_PLAIN and not (first is not NEW and same(first, value, Stamp)):
            held = plain(value)
            if held is not NOT_PLAIN:
                counters[name] = held
                continue
            if first is not NEW and isinstance(value, (list, dict, torch.Tensor)):
                warn_once(f"Checkpoints leave out {type(part).__name__}.{name}: it is too large, or not plain data.")
            values[name] = NOT_PLAIN  # not tried again
    generators = {name: state for name, value in now.items() if (state := generator_state(value)) is not None}
    objects = {} if noted is None else noted.objects
    in_place = [name for name in counters if name in objects and now[name] is objects[name]()]
    return {"rng": generators, "counters": counters, "in_place": in_place}


def held_at(part: Any, noted: Noted) -> dict[str, Any]:
    """What it had when it was noted of what it has changed since."""
    moved = changes(part, False, noted)
    then = {n: held for n in moved["counters"] if (held := plain(noted.values.get(n, NOT_PLAIN))) is not NOT_PLAIN}
    return {"rng": {}, "counters": then, "in_place": moved["in_place"]}


def put_back(part: Any, state: dict[str, Any], anew: bool) -> None:
    """Let the part be as it was then; with `anew` also where only this process has changed it."""
    if "own" in state:
        if has_state(part):
            (partial(load_optimizer, part) if isinstance(part, Optimizer) else part.load_state_dict)(state["own"])
        return
    now, noted = attributes(part), _noted(part)
    for name in now.keys() & state["rng"].keys():
        set_generator_state(now[name], state["rng"][name])
    in_place, counters = state.get("in_place", ()), state["counters"]
    for name, held in {**(noted.values if noted and anew else {}), **counters}.items():
        copy = NOT_PLAIN if held is NOT_PLAIN else plain(held)  # none of a stamp
        if copy is NOT_PLAIN or (name in now and same(held, now[name])):
            continue
        value = unpack(copy, False, "")
        old = now.get(name)
        fills = name in in_place or name not in counters or type(old) is not type(value)
        if not (fills and refilled(old, value)):
            assign(part, name, value)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Its groups stay the same objects, which others may hold too: one that wraps it, or that it wraps."""
    groups = list(optimizer.param_groups)
    optimizer.load_state_dict(state)
    for group, loaded in zip(groups, optimizer.param_groups, strict=True):
        group.update(loaded)
    optimizer.param_groups[:] = groups


def holds(part: Any, others: dict[str, Any]) -> dict[str, Any]:
    """The values of the attributes that are to have other ones for a while."""
    now = attributes(part)
    held = {name: plain(now[name]) for name in now.keys() & others.keys() if not same(others[name], now[name])}
    return {"rng": {}, "counters": held, "in_place": list(held)}


def _stamps(part: Any) -> Any:
    return [Stamp(tensor) for tensor in (*part.parameters(), *part.buffers())]


def _noted(part: Any) -> Noted | None:
    noted = _first.get(id(part))
    return noted if noted is not None and noted.of() is part else None
