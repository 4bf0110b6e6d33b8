"""The arguments that a module or datamodule was made with: kept, saved as plain data, used to make it again."""

from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
import os
import types
import typing
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from fulmen.checkpoint import files, references
from fulmen.checkpoint.plain import items_of, to_saveable
from fulmen.errors import ForeignCheckpoint, MisconfigurationException, nearest
from fulmen.seed import isolate_rng
from fulmen.warn import rank_zero_warn


class AttributeDict(dict[str, Any]):
    """A dict whose items are attributes too.

    >>> AttributeDict(lr=0.1).lr
    0.1
    """

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            there = sorted(map(str, self)) or "what was kept, which is nothing: call save_hyperparameters() in __init__"
            raise AttributeError(f"{name!r} is not among {there}.{nearest(name, self)}")
        return self[name]

    __setattr__ = dict.__setitem__
    __delattr__ = dict.__delitem__

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(str, self)]

    def __repr__(self) -> str:
        width = max((len(str(name)) for name in self), default=0) + 3
        return "\n".join(f'"{name}":'.ljust(width) + f" {self[name]}" for name in sorted(self, key=str))


class HyperparametersMixin:
    """Gives a class `save_hyperparameters` and what it keeps; costs nothing where that is not called."""

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "hparams_type"

    _log_hyperparams = False
    _hparams_name = None  # without an annotation: torch.jit would read it

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Iterable[str] | str | None = None,
        frame: types.FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep the arguments of `__init__` in `hparams`, in every checkpoint, and (with `logger`) in the loggers.

        Call it in `__init__`. Without `args` all arguments are kept, those of subclasses too; with strings only these;
        with one dict, Namespace or dataclass its items. Names in `ignore` are left out.

            class Net(LightningModule):
                def __init__(self, width, loss):
                    super().__init__()
                    self.save_hyperparameters(ignore=["loss"])
                    self.layer = nn.Linear(self.hparams.width, 1)
        """
        name, chosen = _chosen(args, _init_arguments(self, frame or inspect.currentframe()))
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        if isinstance(chosen, dict):
            chosen = AttributeDict((key, value) for key, value in chosen.items() if key not in ignored)
            if isinstance(kept := self.__dict__.get("_hparams"), dict):
                kept.update(chosen)
                chosen = kept
        # straight into __dict__: nn.Module need not be initialized, and does not register what it finds
        initial = _duplicate(chosen)
        self.__dict__.update(_hparams=chosen, _hparams_initial=initial, _hparams_name=name, _log_hyperparams=logger)

    def remove_ignored_hparams(self, ignore_list: list[str]) -> None:
        """Forget the named arguments after all."""
        for name in ignore_list:
            self.hparams.pop(name, None)

    @property
    def hparams(self) -> AttributeDict | MutableMapping[str, Any]:
        """What `save_hyperparameters` kept. Changes show in later checkpoints."""
        return self.__dict__.setdefault("_hparams", AttributeDict())

    @hparams.setter
    def hparams(self, value: Any) -> None:
        """An argument of `__init__` that has items is kept as `save_hyperparameters(argument)` does; nothing else."""
        frame = inspect.currentframe()
        if items_of(value) is not None and any(value is given for given in _init_arguments(self, frame).values()):
            self.save_hyperparameters(value, frame=frame)
            return
        raise AttributeError(
            "self.hparams cannot be assigned. Call self.save_hyperparameters(...) in __init__, with a dict if the "
            "values are no arguments of it, or change single items: self.hparams['name'] = value."
        )

    @property
    def hparams_initial(self) -> AttributeDict | MutableMapping[str, Any]:
        """A copy of what `save_hyperparameters` kept at first, without the changes made since."""
        return _duplicate(self.__dict__.get("_hparams_initial", AttributeDict()))


def _init_arguments(obj: object, frame: types.FrameType | None) -> dict[str, Any]:
    """What the `__init__`s that make `obj` were called with; where they differ, the most derived class is right."""
    found: dict[str, Any] = {}
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is obj:
            given = inspect.getargvalues(frame)
            found.update({name: given.locals[name] for name in given.args[1:]})
            found.update(given.locals[given.keywords] if given.keywords else {})
        frame = frame.f_back
    return found


def _chosen(args: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[str | None, Any]:
    """The values that `save_hyperparameters(*args)` means, and the argument of `__init__` that they are items of."""
    containers = [arg for arg in args if not isinstance(arg, str)]
    if not containers:
        if unknown := [name for name in args if name not in arguments]:
            raise MisconfigurationException(
                f"save_hyperparameters({unknown[0]!r}): __init__ has no such argument, only {sorted(arguments)}."
                f"{nearest(unknown[0], arguments)}"
            )
        return "kwargs", {name: arguments[name] for name in args} if args else arguments
    items = items_of(containers[0])
    if items is None or len(containers) > 1:
        raise TypeError(
            f"save_hyperparameters({', '.join(map(repr, args))}) must get names of arguments as strings, or one dict, "
            "Namespace or dataclass."
        )
    return next((name for name, value in arguments.items() if value is containers[0]), None), items


def _duplicate(hparams: Any) -> Any:
    """A deep copy, except of what is large or cannot be copied."""
    if not isinstance(hparams, dict):
        return copy.deepcopy(hparams)
    copied = AttributeDict(hparams)
    for name, value in hparams.items():
        if not isinstance(value, nn.Module | torch.Tensor):
            with suppress(Exception):  # open files, locks, generators
                copied[name] = copy.deepcopy(value)
    return copied


# ---- into the checkpoint


def store(checkpoint: dict[str, Any], obj: HyperparametersMixin) -> None:
    """Put the hyperparameters of a module or datamodule into `checkpoint`.

    Beside the plain data stand those that come back in their own form, and the names of those left out.
    """
    if obj.__dict__.get("_hparams"):
        described = {name: references.describe(value) for name, value in obj.hparams.items()}
        known = {name: description for name, description in described.items() if description is not None}
        plain, omitted = to_saveable({k: v for k, v in obj.hparams.items() if "value" in known.get(k, {"value": v})})
        checkpoint[obj.CHECKPOINT_HYPER_PARAMS_KEY] = plain
        checkpoint[obj.CHECKPOINT_HYPER_PARAMS_NAME] = obj._hparams_name
        for title, content in (("references", known), ("omitted", omitted)):
            if content:
                own = checkpoint.setdefault("fulmen", {}).setdefault(title, {})
                own[obj.CHECKPOINT_HYPER_PARAMS_KEY] = content


# ---- out of the checkpoint


class class_only:  # noqa: N801 (stands where a decorator could)
    """A class method that, called on an instance, gets that in place of the class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object | None, owner: type) -> Callable[..., Any]:
        return types.MethodType(self.function, owner if instance is None else instance)


def load_module(
    cls: Any,
    checkpoint_path: Any,
    map_location: Any = None,
    hparams_file: str | os.PathLike[str] | None = None,
    strict: bool | None = None,
    weights_only: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Make a module from a checkpoint: its saved arguments, `kwargs` before them, and its weights.

    Call it on the class. `hparams_file` (.yaml or .csv) stands in for the arguments in the file. Code in the file runs
    only with `weights_only=False`.
    """
    checkpoint, name = _read(checkpoint_path, map_location, weights_only)
    if "state_dict" not in checkpoint:
        raise ForeignCheckpoint(f"{name} is not a trainer's checkpoint: it has no 'state_dict'.")
    with isolate_rng():
        module = _make(cls, checkpoint, name, hparams_file, kwargs)
        module.configure_model()
    module.on_load_checkpoint(checkpoint)
    weights = checkpoint["state_dict"]
    load_weights(module, weights, module.strict_loading if strict is None else strict, name)
    device = next((value.device for value in weights.values() if isinstance(value, torch.Tensor)), None)
    return module if device is None else module.to(device)


def load_datamodule(
    cls: Any,
    checkpoint_path: Any,
    map_location: Any = None,
    hparams_file: str | os.PathLike[str] | None = None,
    weights_only: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Make a datamodule from a checkpoint: its saved arguments, `kwargs` before them, and its state."""
    checkpoint, name = _read(checkpoint_path, map_location, weights_only)
    with isolate_rng():
        datamodule = _make(cls, checkpoint, name, hparams_file, kwargs)
    if (state := checkpoint.get(type(datamodule).__qualname__)) is not None:
        datamodule.load_state_dict(state)
    return datamodule


def load_weights(module: nn.Module, weights: Mapping[str, Any], strict: bool, name: str) -> None:
    """`module.load_state_dict`, with an error (or if not `strict` a warning) that names the file and the keys."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False) or ((), ())
    except RuntimeError as error:  # shapes that differ
        raise ForeignCheckpoint(f"{name} holds the weights of another model. {' '.join(str(error).split())}") from error
    parts = [
        f"{word} keys: {_listed(keys)}." for word, keys in (("Missing", missing), ("Unexpected", unexpected)) if keys
    ]
    if parts and strict:
        raise ForeignCheckpoint(
            f"{name} does not fit {type(module).__name__}. {' '.join(parts)} If that is meant, pass strict=False or "
            "set self.strict_loading = False."
        )
    if parts:
        rank_zero_warn(f"{name} was loaded in part. {' '.join(parts)}")


def _listed(keys: list[str], most: int = 12) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _read(path: Any, map_location: Any, weights_only: bool | None) -> tuple[dict[str, Any], str]:
    checkpoint = files.read(path, _present if map_location is None else map_location, weights_only)
    return files.upgraded(checkpoint), repr(str(path))


def _present(storage: Any, location: str) -> Any:
    """Where a tensor was when it was saved, if that device is here, else the CPU."""
    kind, _, index = location.partition(":")
    gone = (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    return storage if gone else None


def _make(target: Any, checkpoint: dict[str, Any], name: str, hparams_file: Any, given: dict[str, Any]) -> Any:
    """An object of class `target`, from the arguments in `checkpoint` and those `given`."""
    cls = target if isinstance(target, type) else type(target)
    if hparams_file is not None:
        from fulmen.checkpoint.sidefiles import load_hparams

        saved = load_hparams(hparams_file)
    else:
        saved = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY) or {}
        saved = {**dict(items_of(saved) or {}), **_referred(cls, checkpoint, name, given)}
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    container = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME)
    arguments = _arguments(cls, parameters, dict(items_of(saved) or {}), container, given)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in arguments
    ]
    call = f"{cls.__name__}.load_from_checkpoint({', '.join([name, *(f'{argument}=...' for argument in missing)])})"
    if cls is target and missing:
        raise TypeError(
            f"{cls.__name__} needs {', '.join(missing)}, which {name} does not hold. Pass what is missing: {call}."
        )
    if cls is target:
        _say_left_out(cls, checkpoint, name, {**given, **arguments})
        return cls(**arguments)
    if not missing or not isinstance(target, nn.Module):
        raise TypeError(
            "load_from_checkpoint was called on an instance, which it would leave as it is. Call it on the class and "
            f"keep what it returns: model = {call}."
        )
    rank_zero_warn(  # the file cannot make the object, only the instance can
        f"load_from_checkpoint was called on an instance of {cls.__name__}. {name} does not hold {', '.join(missing)}, "
        f"so the result is a copy of that instance with the weights of the file. Better call {call}."
    )
    return copy.deepcopy(target)


def _say_left_out(cls: Any, checkpoint: dict[str, Any], file: str, given: dict[str, Any]) -> None:
    """Defaults stand in silently for what saving has left out."""
    left = checkpoint.get("fulmen", {}).get("omitted", {}).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, ())
    if left := [name for name in left if name not in given]:
        call = f"{cls.__name__}.load_from_checkpoint({', '.join([file, *(f'{one}=...' for one in left)])})"
        rank_zero_warn(
            f"{file} does not hold the hyperparameters {left}, which were no plain data: {cls.__name__} is made "
            f"without them. Better call {call}."
        )


def _referred(cls: Any, checkpoint: dict[str, Any], file: str, given: dict[str, Any]) -> dict[str, Any]:
    """The saved arguments that come back in their own form."""
    found: dict[str, Any] = {}
    known = checkpoint.get("fulmen", {}).get("references", {}).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
    for name in known if isinstance(known, dict) else ():
        try:
            if name not in given and known[name]:  # empty: what it was is not there any more, and reading said so
                found[name] = references.obtain(known[name], file)
        except Exception as error:
            rank_zero_warn(f"{file} holds {name!r} in a form that this torch does not know ({error}); it is left out.")
    return found


def _arguments(
    cls: type, parameters: Mapping[str, Any], saved: dict[str, Any], container: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    """What to call `cls` with: the saved values that it takes, and before them those `given`."""
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = {} if takes_any else {name: value for name, value in given.items() if name not in parameters}
    if container is not None and container in parameters and container != "kwargs":
        arguments: dict[str, Any] = {container: AttributeDict(saved | unknown)}
    elif unknown:
        name = next(iter(unknown))
        raise TypeError(
            f"{cls.__name__} has no argument {name!r}, only {', '.join(parameters)}.{nearest(name, parameters)}"
        )
    else:
        arguments = {name: value for name, value in saved.items() if takes_any or name in parameters}
    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # names that exist for the type checker only
        hints = {}
    revived = {name: _revive(value, hints.get(name)) for name, value in arguments.items()}
    return revived | {name: value for name, value in given.items() if name not in unknown}


def _revive(value: Any, hint: Any) -> Any:
    """`value` in the form that the parameter's annotation asks for, where saving it made it plainer."""
    for kind in (hint, *typing.get_args(hint)):
        if not isinstance(kind, type):
            continue
        if issubclass(kind, enum.Enum):
            return next((member for member in kind if member.value == value), value)
        if issubclass(kind, PurePath) and isinstance(value, str):
            return kind(value)
        if isinstance(value, dict) and issubclass(kind, Namespace):
            return kind(**value)
        if isinstance(value, dict) and dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            return kind(**{name: _revive(item, hints[name]) for name, item in value.items() if name in hints})
    return value
