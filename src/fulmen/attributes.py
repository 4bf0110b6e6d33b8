"""What lies in an object's attributes: random generators, and plain data that can be copied, compared and put back."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from functools import partial
from hashlib import sha256
from types import FunctionType
from typing import Any
from weakref import ref
from zlib import crc32

import torch

from fulmen.checkpoint.packing import MARK, Packer, find_record, unpack
from fulmen.values import is_metric

GRAD, NOT_PLAIN, OF_MODULES = ".requires_grad", object(), frozenset(vars(torch.nn.Module()))
OF_OPTIMIZERS = ("state", "param_groups", "defaults")
NOTED, MOST = 2**12, 2**16
"""Elements of an attribute that is looked after, before the run and in a checkpoint."""
_FLAT = frozenset((type(None), bool, int, float, complex))


def attributes(part: Any) -> dict[str, Any]:
    """By name: a function's are what it has from around it, a partial's its arguments."""
    if isinstance(part, torch.nn.Module):
        return _of_module(part)
    if isinstance(part, FunctionType):
        return _around(part)
    if isinstance(part, partial):
        return {**{f"{n}": given for n, given in enumerate(part.args)}, **part.keywords, "func": part.func}
    held = {name: getattr(part, name) for name in _slots(part) if hasattr(part, name)} | getattr(part, "__dict__", {})
    if isinstance(part, torch.optim.Optimizer):
        own = not type(part).__module__.startswith("torch.")
        return {name: value for name, value in held.items() if own and name not in OF_OPTIMIZERS}
    wanted = getattr(type(part), "_changeable", None)  # the others are not looked after
    return held if wanted is None else {name: held[name] for name in wanted if name in held}


def _of_module(part: torch.nn.Module) -> dict[str, Any]:
    buffers = {name: part._buffers.get(name) for name in part._non_persistent_buffers_set}
    flags = {f"{name}{GRAD}": p.requires_grad for name, p in part._parameters.items() if p is not None}
    keeps = not type(part).__module__.startswith("torch.nn.")  # torch's layers have it all in their state_dict
    own = {name: value for name, value in vars(part).items() if name not in OF_MODULES} if keeps else {}
    if is_metric(part):  # a checkpoint has its tensors beside
        return {name: value for name, value in own.items() if type(value) in _FLAT and name != "_update_count"}
    return {**own, **buffers, **flags}


def _around(function: FunctionType) -> dict[str, Any]:
    code, found = function.__code__, dict(function.__kwdefaults__ or {})
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # of an empty one
            found[name] = cell.cell_contents
    given = function.__defaults__ or ()
    return found | dict(zip(code.co_varnames[code.co_argcount - len(given) : code.co_argcount], given, strict=False))


def _slots(part: Any) -> list[str]:
    found = (vars(kind).get("__slots__", ()) for kind in type(part).__mro__)
    return [name for names in found for name in ((names,) if isinstance(names, str) else names) if name[:2] != "__"]


def keeps_any(part: Any) -> bool:
    return hasattr(part, "__dict__") or bool(_slots(part))


def assign(part: Any, name: str, value: Any) -> None:
    if name.endswith(GRAD):
        part._parameters[name[: -len(GRAD)]].requires_grad_(value)
    elif isinstance(part, partial):
        part.keywords[name] = value
    elif isinstance(part, FunctionType) and name in part.__code__.co_freevars:
        part.__closure__[part.__code__.co_freevars.index(name)].cell_contents = value  # type: ignore[index]
    else:
        setattr(part, name, value)


def refilled(old: Any, new: Any) -> bool:
    """Give a container, which others may hold too, its content of then."""
    if not isinstance(old, type(new)) or not hasattr(old, "__setitem__"):
        return False
    if hasattr(old, "shape"):
        if old.shape == new.shape and old.dtype == new.dtype:
            old[...] = new
        return old.shape == new.shape and old.dtype == new.dtype
    old.clear()
    (old.extend if hasattr(old, "extend") else old.update)(new)
    return True


class Stamp:
    """Stands for a tensor as it is now, without a copy: equal to it until it is changed in place.

    Torch counts such changes, but not those by way of `.data`, which the norm tells.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.version, self.norm = ref(tensor), tensor._version, _norm(tensor)

    def __eq__(self, other: object) -> bool:
        found = other.tensor() if isinstance(other, Stamp) else other
        if not isinstance(found, torch.Tensor) or found is not self.tensor():
            return False
        now = other if isinstance(other, Stamp) else Stamp(found)
        return self.version == now.version and self.norm == now.norm

    __hash__ = None  # type: ignore[assignment]


def _norm(tensor: torch.Tensor) -> float:
    with suppress(Exception):  # of what has no values, or none of this kind
        if tensor.numel() <= 16 * MOST or isinstance(tensor, torch.nn.Parameter):
            return float(tensor.detach().float().norm())
    return 0.0


class Digest:
    """Stands for an array that is too large to be copied only in order to see whether it changes."""

    def __init__(self, array: Any) -> None:
        self.of = array.shape, array.dtype.str, crc32(array.tobytes())

    def __eq__(self, other: object) -> bool:
        return self.of == (other.of if isinstance(other, Digest) else Digest(other).of)

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
            size = len(value) if kind is bytes else size
            if size is not None and self.tensor is Stamp and NOTED < size // 64 <= MOST:
                return Digest(value)
            counted = kind.__module__ in ("builtins", "collections") and hasattr(kind, "__len__")  # others may run on
            self._takes(size // 64 if size is not None else len(value) if counted else 0)
        return super().__call__(value, *path)

    def _takes(self, number: int) -> None:
        self.left -= 1 + number
        if self.left < 0:
            raise TypeError

    def _plainer(self, value: Any, kind: type, path: tuple[Any, ...]) -> Any:
        fields = list(value) if isinstance(value, tuple) else vars(value)
        if find_record(kind.__module__, kind.__qualname__) is not kind:
            raise TypeError
        return self._mark("record", [kind.__module__, kind.__qualname__, self(fields)])


def plain(value: Any, tensor: Any = None, most: int = MOST) -> Any:
    """A copy of it that a file can hold, NOT_PLAIN if there is none; dicts and lists of own kinds as plain ones."""
    base = next((base for base in (dict, list) if isinstance(value, base)), None)
    is_own = base is not None and type(value).__module__ not in ("builtins", "collections")
    with suppress(TypeError, RuntimeError):
        return _Plain(tensor or _cloned, most)(base(value) if base is not None and is_own else value)
    return NOT_PLAIN


def copied(state: Any) -> Any:
    """A copy of what a state_dict gave, which may go on changing; itself where it is too large, or not plain data."""
    copy = plain(state)
    return state if copy is NOT_PLAIN else unpack(copy, False, "")


def _cloned(tensor: torch.Tensor) -> Any:
    copy = tensor.detach().clone()
    return copy if tensor.is_cpu else {MARK: "tensor", "value": [copy, str(tensor.device)]}


def same(held: Any, value: Any, tensor: Any = None) -> bool:
    """Whether they are equal; with `Stamp`, `held` was noted with it, so a tensor is compared without being read."""
    with suppress(Exception):  # of tensors or arrays, which are not equal in one word
        if bool(held == value):
            return True
    if tensor is Stamp:
        return held == plain(value, Stamp, NOTED)
    return plain(held, _bytes) == plain(value, _bytes) is not NOT_PLAIN


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.dtype, tensor.shape, tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def generator_state(value: Any) -> Any:
    """The state of a random generator as plain data; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return value.bit_generator.state
    return value.get_state(False) if numpy is not None and isinstance(value, numpy.random.RandomState) else None


def set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def draw_anew(part: Any, text: str) -> None:
    """Let the random generators that a part keeps begin from a seed made of `text`."""
    for name, value in attributes(part).items():
        if generator_state(value) is not None:
            number = int.from_bytes(sha256(f"{text} {name}".encode()).digest()[:4], "little")
            if isinstance(value, torch.Generator):
                value.manual_seed(number)
            elif hasattr(value, "bit_generator"):
                value.bit_generator.state = type(value.bit_generator)(number).state
            else:
                value.seed(number)
