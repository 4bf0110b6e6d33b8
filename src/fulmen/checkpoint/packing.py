"""What torch's safe loader does not know, packed as plain data, and unpacked when it is read.

A packed value is the dict {"__fulmen__": kind, "value": plain data}. An object that has no plain form is kept as a
pickle, which is opened only where the user lets the file run code.
"""

from __future__ import annotations

import enum
import pickle
import sys
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from fulmen.warn import rank_zero_warn, warn_once

MARK = "__fulmen__"
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)
_BASES: tuple[Any, ...] = (bool, int, float, str, bytes)
_FACTORIES = {kind.__name__: kind for kind in (int, float, str, list, dict, set)}
_PARTS: dict[type, Callable[[Any], Any]] = {
    deque: lambda value: [list(value), value.maxlen],
    date: date.isoformat,
    datetime: datetime.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Namespace: vars,
    range: lambda value: [value.start, value.stop, value.step],
}
_LEFT_OUT = object()


class Packer:
    """Called on a tree, it returns that in plain containers of its own; `is_used` tells whether anything is packed.

    `tensor` is what becomes of each tensor.
    """

    def __init__(self, tensor: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        self.tensor = tensor
        self.is_used = False

    def __call__(self, value: Any, *path: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value if value or kind is not bytes else self._mark("bytes", [])
        if isinstance(value, Tensor):
            known = kind.__module__.startswith("torch")
            return self.tensor(value if known else value.detach().as_subclass(Tensor))
        if kind is OrderedDict or kind is Counter:
            made = kind(dict(self._items(value, path)))
            made.__dict__.update(value.__dict__)  # the versions of modules in their state
            return made
        if kind is list or kind is tuple:
            return kind([self._kept(item, *path, index) for index, item in enumerate(value)])
        if kind is dict:
            self.is_used = self.is_used or MARK in value
            return dict(self._items(value, path))
        if kind in (set, frozenset) and all(type(item) in _ATOMS for item in value):
            return set(value) if kind is set else self._mark("frozenset", list(value))
        return self._other(value, kind, path)

    def _items(self, value: Mapping[Any, Any], path: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        made = [(self(key, *path), self(item, *path, key)) for key, item in value.items()]
        return [pair for pair in made if pair[1] is not _LEFT_OUT]

    def _kept(self, item: Any, *path: Any) -> Any:
        made = self(item, *path)
        return None if made is _LEFT_OUT else made

    def _mark(self, kind: str, value: Any) -> dict[str, Any]:
        self.is_used = True
        return {MARK: kind, "value": value}

    def _other(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        if isinstance(value, enum.Enum):
            return self._mark("enum", [kind.__module__, kind.__qualname__, value.name])
        if kind in (set, frozenset):
            return self._mark(kind.__name__, [self._kept(item, *path) for item in value])
        if kind is defaultdict and value.default_factory in _FACTORIES.values():
            return self._mark("defaultdict", [value.default_factory.__name__, self(dict(value), *path)])
        if isinstance(value, PurePath):
            return self._mark("path", str(value))
        if kind in _PARTS:
            return self._mark(kind.__name__, self(_PARTS[kind](value), *path))
        if kind.__module__ == "numpy" and hasattr(value, "tobytes") and value.dtype.kind in "biufcMmSU":
            return self._mark("numpy", [value.dtype.str, list(value.shape), self(value.tobytes())])
        return self._plainer(value, kind, path)

    def _plainer(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        """Kinds of the user's own: what is a dict, a list, a number or text is saved as that."""
        if isinstance(value, Mapping):
            return dict(self._items(value, path))
        for base in (list, tuple):
            if isinstance(value, base):
                return base([self._kept(item, *path, index) for index, item in enumerate(value)])
        for base in _BASES:
            if isinstance(value, base):
                return base(value)
        return self._pickled(value, f"{kind.__module__}.{kind.__qualname__}", " -> ".join(map(str, path)))

    def _pickled(self, value: Any, name: str, place: str) -> Any:
        try:
            sealed = pickle.dumps(value)
        except Exception as error:
            warn_once(f"The checkpoint leaves out {place}: a {name} cannot be saved ({error}).")
            return _LEFT_OUT
        warn_once(
            f"{place} in this checkpoint is {name}, which only code can rebuild: it comes back where "
            "weights_only=False is given, else it is left out. Plain data always come back."
        )
        return {**self._mark("pickle", sealed), "type": name}


class _Kinds(Packer):
    """Stops at what it could only make plainer, and at arrays, which stand whole among the plain data."""

    def _other(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        if getattr(value, "ndim", 0):
            raise TypeError(f"{kind.__name__} is not packed twice")
        return super()._other(value, kind, path)

    def _plainer(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        raise TypeError(f"{kind.__name__} has no packed form")


def packed(value: Any) -> Any:
    """`value` with its paths, enums and namespaces packed; None where there are none, or other objects too."""
    pack = _Kinds()
    try:
        made = pack(value)
    except TypeError:
        return None
    return made if pack.is_used else None


def unpack(value: Any, runs_code: bool, name: str, *path: Any) -> Any:
    """`value` with what is packed in it in its own form again; `name` is the file's, for messages."""
    kind = type(value)
    if kind is dict and MARK in value:
        return _unpacked(value, runs_code, name, path)
    if kind is dict or kind is OrderedDict:
        for key in list(value):
            if type(value[key]) in (dict, OrderedDict, list, tuple):
                value[key] = unpack(value[key], runs_code, name, *path, key)
                if value[key] is _LEFT_OUT:
                    del value[key]
    elif kind is list or kind is tuple:
        made = [unpack(item, runs_code, name, *path, index) for index, item in enumerate(value)]
        return kind([None if item is _LEFT_OUT else item for item in made])
    return value


def _unpacked(packed: dict[str, Any], runs_code: bool, name: str, path: tuple[Any, ...]) -> Any:
    kind, value = packed[MARK], packed["value"]
    if kind == "pickle" and runs_code:
        return pickle.loads(value)
    if kind == "pickle":
        return _left_out(name, path, f"a {packed['type']}, and rebuilding it could run code: pass weights_only=False")
    if kind == "enum":
        found = _find(value[0], value[1])
        if isinstance(found, enum.EnumMeta) and value[2] in found.__members__:
            return found[value[2]]
        return _left_out(name, path, f"{value[1]}.{value[2]} of the module {value[0]!r}, which is not there")
    if kind == "record":
        return _record(find_record(*value[:2]), unpack(value[2], runs_code, name, *path))
    return _FORMS[kind](unpack(value, runs_code, name, *path))


def _find(module: str, name: str) -> Any:
    """Only in modules that the program has imported itself."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def find_record(module: str, name: str) -> Any:
    """A class of named tuples, or a dataclass, that can be made without running code of its own; else None."""
    found = _find(module, name)
    if not isinstance(found, type) or hasattr(found, "__del__"):
        return None
    is_tuple = issubclass(found, tuple) and hasattr(found, "_fields")
    return found if is_tuple or (is_dataclass(found) and "__slots__" not in vars(found)) else None


def _record(kind: Any, held: Any) -> Any:
    if kind is None:
        return held
    if issubclass(kind, tuple):
        return tuple.__new__(kind, held)
    made = object.__new__(kind)
    made.__dict__.update(held)
    return made


def _left_out(name: str, path: tuple[Any, ...], reason: str) -> Any:
    rank_zero_warn(f"{name!r}: {' -> '.join(map(str, path))} is left out. It is {reason}.")
    return _LEFT_OUT


def _array(dtype: str, shape: list[int], content: bytes) -> Any:
    import numpy

    array = numpy.frombuffer(content, numpy.dtype(dtype)).reshape(shape)
    return array.copy() if shape else array[()]


_FORMS: dict[str, Callable[[Any], Any]] = {
    "deque": lambda value: deque(*value),
    "defaultdict": lambda value: defaultdict(_FACTORIES[value[0]], value[1]),
    "bytes": bytes,
    "set": set,
    "frozenset": frozenset,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "Namespace": lambda value: Namespace(**value),
    "range": lambda value: range(*value),
    "path": Path,
    "numpy": lambda value: _array(*value),
    "tensor": lambda value: value[0].to(value[1]),  # not in the host's memory
}
