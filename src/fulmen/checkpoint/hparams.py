"""The arguments that a module or datamodule was made with: kept, saved as plain data, used to make it again."""

from __future__ import annotations

import ast
import copy
import csv
import dataclasses
import enum
import inspect
import io
import os
import types
import typing
from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from fulmen.checkpoint import files
from fulmen.errors import ForeignCheckpoint, MisconfigurationException, nearest
from fulmen.seed import isolate_rng
from fulmen.warn import rank_zero_warn, warn_once


class AttributeDict(dict[str, Any]):
    """A dict whose items are attributes too.

    >>> AttributeDict(lr=0.1).lr
    0.1
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name!r} is not among {sorted(map(str, self))}.{nearest(name, self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"{name!r} is not among {sorted(map(str, self))}.")
        del self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(str, self)]

    def __repr__(self) -> str:
        width = max((len(str(key)) for key in self), default=0) + 3
        return "\n".join(f'{f""""{key}":""":{width}} {value}' for key, value in self.items())


class HyperparametersMixin:
    """Gives a class `save_hyperparameters` and what it keeps; costs nothing where that is not called."""

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "hparams_type"

    _log_hyperparams = False
    _hparams_name: str | None = None

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
        frame = frame or typing.cast(types.FrameType, inspect.currentframe()).f_back
        arguments = _init_arguments(self, frame)
        name, chosen = _chosen(args, arguments)
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        if isinstance(chosen, dict):
            chosen = AttributeDict({key: value for key, value in chosen.items() if key not in ignored})
        # straight into __dict__, so that nn.Module need not be initialized and does not register what it finds
        kept = self.__dict__.get("_hparams")
        if isinstance(kept, dict) and isinstance(chosen, dict):
            kept.update(chosen)
        else:
            self.__dict__["_hparams"] = chosen
        self.__dict__["_hparams_initial"] = _duplicate(self.__dict__["_hparams"])
        self.__dict__["_hparams_name"] = name
        self.__dict__["_log_hyperparams"] = logger

    def remove_ignored_hparams(self, ignore_list: list[str]) -> None:
        """Forget the named arguments after all."""
        for name in ignore_list:
            self.hparams.pop(name, None)

    @property
    def hparams(self) -> AttributeDict | MutableMapping[str, Any]:
        """What `save_hyperparameters` kept. Changes show in later checkpoints."""
        kept: AttributeDict = self.__dict__.setdefault("_hparams", AttributeDict())
        return kept

    @hparams.setter
    def hparams(self, value: Any) -> None:
        raise AttributeError(
            "self.hparams cannot be assigned. Call self.save_hyperparameters(...) in __init__, with a dict if the values "
            "are not arguments of it, or change single items: self.hparams['name'] = value."
        )

    @property
    def hparams_initial(self) -> AttributeDict | MutableMapping[str, Any]:
        """A copy of what `save_hyperparameters` kept at first, without the changes made since."""
        return typing.cast(AttributeDict, _duplicate(self.__dict__.get("_hparams_initial", AttributeDict())))


def _init_arguments(obj: object, frame: types.FrameType | None) -> dict[str, Any]:
    """What the `__init__`s that make `obj` were called with; where they differ, the most derived class's word counts."""
    found: dict[str, Any] = {}
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is obj:
            values = frame.f_locals
            num_named = code.co_argcount + code.co_kwonlyargcount
            found.update((name, values[name]) for name in code.co_varnames[1:num_named] if name in values)
            if code.co_flags & inspect.CO_VARKEYWORDS:
                found.update(values[code.co_varnames[num_named + bool(code.co_flags & inspect.CO_VARARGS)]])
        frame = frame.f_back
    return found


def _chosen(args: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[str | None, Any]:
    """The values that `save_hyperparameters(*args)` means, and the argument of `__init__` that they are items of."""
    containers = [arg for arg in args if not isinstance(arg, str)]
    if not containers:
        unknown = [name for name in args if name not in arguments]
        if unknown:
            raise MisconfigurationException(
                f"save_hyperparameters({unknown[0]!r}): __init__ has no such argument, only {sorted(arguments)}."
                f"{nearest(unknown[0], arguments)}"
            )
        return "kwargs", {name: arguments[name] for name in args} if args else arguments
    if len(containers) > 1:
        raise TypeError(
            f"save_hyperparameters got {len(containers)} values. Pass the names of arguments as strings, or one dict."
        )
    container = containers[0]
    name = next((name for name, value in arguments.items() if value is container), None)
    if isinstance(container, Namespace):
        return name, dict(vars(container))
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        return name, {field.name: getattr(container, field.name) for field in dataclasses.fields(container)}
    if not isinstance(container, MutableMapping):
        raise TypeError(
            f"save_hyperparameters({container!r}) must get the names of arguments as strings, or one dict, Namespace or "
            "dataclass."
        )
    return name, container


def _duplicate(hparams: Any) -> Any:
    """A deep copy, except of what is large or cannot be copied."""
    if not isinstance(hparams, dict):
        return copy.deepcopy(hparams)
    copied = AttributeDict()
    for name, value in hparams.items():
        try:
            copied[name] = value if isinstance(value, nn.Module | torch.Tensor) else copy.deepcopy(value)
        except Exception:  # open files, locks, generators
            copied[name] = value
    return copied


# ---- into the checkpoint


def store(checkpoint: dict[str, Any], obj: HyperparametersMixin) -> None:
    """Put the hyperparameters of a module or datamodule into `checkpoint`, and the names of those left out."""
    if not obj.hparams:
        return
    plain, omitted = to_saveable(obj.hparams)
    checkpoint[obj.CHECKPOINT_HYPER_PARAMS_KEY] = plain
    checkpoint[obj.CHECKPOINT_HYPER_PARAMS_NAME] = obj._hparams_name
    if omitted:
        own = checkpoint.setdefault("fulmen", {})
        own.setdefault("omitted", {})[obj.CHECKPOINT_HYPER_PARAMS_KEY] = omitted


def to_saveable(hparams: Mapping[str, Any] | Namespace) -> tuple[dict[str, Any], list[str]]:
    """`hparams` as data that loads with weights_only=True, and the names of those that have no such form."""
    kept: dict[str, Any] = {}
    omitted: list[str] = []
    items = vars(hparams) if isinstance(hparams, Namespace) else hparams
    for name in items:
        try:
            kept[str(name)] = _plain(items[name])
        except Exception:  # also what a lazily filled container raises when it is read
            omitted.append(str(name))
    if omitted:
        warn_once(
            f"Hyperparameters {omitted} are not plain data, so checkpoints leave them out and load_from_checkpoint must "
            f"be given them. To say so in the code: save_hyperparameters(ignore={omitted})."
        )
    return kept, omitted


_KEPT = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _KEPT:
        return value
    if kind in (torch.Tensor, nn.Parameter):
        return value.detach()
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Namespace):
        return _plain(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = {_plain(key): _plain(value[key]) for key in value}
        return kind(items) if kind in (OrderedDict, Counter) else items
    if isinstance(value, set | frozenset):
        return {_plain(item) for item in value}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list | deque | range) or kind.__name__ == "ListConfig":
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    for base in (bool, int, float, str, bytes):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{kind.__name__} is not plain data")


# ---- out of the checkpoint


class class_only:  # noqa: N801 (used like a decorator)
    """A class method that learns on which instance it was called, if on one: it gets that in place of the class."""

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
    checkpoint = _read(checkpoint_path, map_location, weights_only)
    if "state_dict" not in checkpoint:
        raise ForeignCheckpoint(f"{_name(checkpoint_path)} is not a trainer's checkpoint: it has no 'state_dict'.")
    with isolate_rng():
        module = _construct(cls, checkpoint, checkpoint_path, hparams_file, kwargs)
        module.configure_model()
    module.on_load_checkpoint(checkpoint)
    weights = checkpoint["state_dict"]
    load_weights(module, weights, module.strict_loading if strict is None else strict, _name(checkpoint_path))
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
    checkpoint = _read(checkpoint_path, map_location, weights_only)
    with isolate_rng():
        datamodule = _construct(cls, checkpoint, checkpoint_path, hparams_file, kwargs)
    if (state := checkpoint.get(type(datamodule).__qualname__)) is not None:
        datamodule.load_state_dict(state)
    return datamodule


def load_weights(module: nn.Module, weights: Mapping[str, Any], strict: bool, name: str) -> None:
    """`module.load_state_dict`, with an error (or if not `strict` a warning) that names the file and the keys."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False) or ((), ())
    except RuntimeError as error:  # shapes that differ
        raise ForeignCheckpoint(f"{name} belongs to another model. {error}") from error
    if not missing and not unexpected:
        return
    parts = [
        f"{word} keys: {_listed(keys)}" for word, keys in (("Missing", missing), ("Unexpected", unexpected)) if keys
    ]
    if strict:
        raise ForeignCheckpoint(
            f"{name} does not fit {type(module).__name__}. {'; '.join(parts)}. "
            "If that is meant, pass strict=False (or set self.strict_loading = False)."
        )
    rank_zero_warn(f"{name} was loaded in part. {'; '.join(parts)}.")


def _listed(keys: Iterable[str], most: int = 12) -> str:
    names = list(keys)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _name(path: Any) -> str:
    return repr(str(path)) if isinstance(path, str | os.PathLike) else "The checkpoint"


def _read(path: Any, map_location: Any, weights_only: bool | None) -> dict[str, Any]:
    return files.read(path, _present if map_location is None else map_location, weights_only)


def _present(storage: Any, location: str) -> Any:
    """Where a tensor was when it was saved if that device is here, else the CPU."""
    kind, _, index = location.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        return storage
    if kind == "mps" and not torch.backends.mps.is_available():
        return storage
    return None


def _construct(target: Any, checkpoint: dict[str, Any], path: Any, hparams_file: Any, given: dict[str, Any]) -> Any:
    """Make an object of class `target` (or of its class) from the arguments in `checkpoint` and those `given`."""
    cls = target if isinstance(target, type) else type(target)
    key = cls.CHECKPOINT_HYPER_PARAMS_KEY
    saved = load_hparams(hparams_file) if hparams_file is not None else checkpoint.get(key) or {}
    if isinstance(saved, Namespace):
        saved = vars(saved)
    arguments = _arguments(cls, dict(saved), checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME), given)
    parameters = _parameters(cls)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind <= parameter.KEYWORD_ONLY
        and name not in arguments
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if cls is not target:
        return _duplicate_of(target, missing, path)
    if missing:
        raise TypeError(
            f"{cls.__name__} needs {', '.join(missing)}, which {_name(path)} does not hold. Pass what is missing: "
            f"{cls.__name__}.load_from_checkpoint({_name(path)}, {', '.join(f'{name}=...' for name in missing)})."
        )
    return cls(**arguments)


def _duplicate_of(instance: Any, missing: list[str], path: Any) -> Any:
    """Stands in for the class when the file lacks arguments that only the instance has."""
    name = type(instance).__name__
    if not missing:
        raise TypeError(
            f"load_from_checkpoint was called on an instance, which it would leave as it is. Call it on the class and "
            f"keep what it returns: model = {name}.load_from_checkpoint({_name(path)})."
        )
    rank_zero_warn(
        f"load_from_checkpoint was called on an instance of {name}: {_name(path)} does not hold {', '.join(missing)}, so "
        f"the result is a copy of the instance with the weights of the file; the instance stays as it is. Better call "
        f"{name}.load_from_checkpoint({_name(path)}, {', '.join(f'{argument}=...' for argument in missing)})."
    )
    shared = {id(value): value for value in (instance.__dict__.get(part) for part in ("_trainer", "_fabric")) if value}
    duplicate = copy.deepcopy(instance, shared)
    duplicate.__dict__.update({part: None for part in ("_trainer", "_fabric") if part in duplicate.__dict__})
    return duplicate


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # type: ignore[misc]


def _arguments(cls: type, saved: dict[str, Any], container: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """What to call `cls` with: the saved values that it takes, and before them those `given`."""
    parameters = _parameters(cls)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = {name: value for name, value in given.items() if name not in parameters and not takes_any}
    if container in parameters and container != "kwargs":
        arguments = {container: AttributeDict(saved | unknown)}
    elif unknown:
        name = next(iter(unknown))
        raise TypeError(
            f"{cls.__name__} has no argument {name!r}, only {', '.join(parameters)}.{nearest(name, parameters)}"
        )
    else:
        arguments = {name: value for name, value in saved.items() if takes_any or name in parameters}
    hints = _hints(cls)
    revived = {name: _revive(value, hints.get(name)) for name, value in arguments.items()}
    return revived | {name: value for name, value in given.items() if name not in unknown}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception:  # names that exist for the type checker only
        return {}


def _revive(value: Any, hint: Any) -> Any:
    """`value` in the form that the parameter's annotation asks for, where saving it made it plainer."""
    for kind in (hint, *typing.get_args(hint)):
        if not isinstance(kind, type):
            continue
        if issubclass(kind, enum.Enum) and not isinstance(value, enum.Enum):
            return next((member for member in kind if member.value == value), value)
        if issubclass(kind, PurePath) and isinstance(value, str):
            return Path(value)
        if issubclass(kind, Namespace) and type(value) in (dict, AttributeDict):
            return kind(**value)
        if dataclasses.is_dataclass(kind) and type(value) in (dict, AttributeDict):
            fields = typing.get_type_hints(kind)
            return kind(**{name: _revive(item, fields.get(name)) for name, item in value.items() if name in fields})
    return value


# ---- side files


def load_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Hyperparameters from a .yaml file, or from a .csv file with the columns key and value."""
    suffix = os.path.splitext(str(path))[1].lower()
    if suffix in (".yaml", ".yml"):
        return load_hparams_from_yaml(path)
    if suffix == ".csv":
        return {row["key"]: _literal(row["value"]) for row in csv.DictReader(io.StringIO(files.fetch(path).decode()))}
    raise ValueError(f"hparams_file={str(path)!r} must end in .yaml, .yml or .csv.")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def load_hparams_from_yaml(config_yaml: str | os.PathLike[str], use_omegaconf: bool = True) -> dict[str, Any]:
    """Hyperparameters from a YAML file; tags that would make objects are refused."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor(
        "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
    )
    try:
        return yaml.load(files.fetch(config_yaml), Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{str(config_yaml)!r} is not plain YAML, so it was refused: {error}") from error


def save_hparams_to_yaml(
    config_yaml: str | os.PathLike[str], hparams: Mapping[str, Any] | Namespace, use_omegaconf: bool = True
) -> None:
    """Write hyperparameters as plain YAML; those that are not plain data are left out with a warning."""
    import yaml

    plain, _ = to_saveable(hparams)
    text = yaml.safe_dump({name: _for_yaml(value) for name, value in plain.items()}, sort_keys=False)
    files.local(config_yaml).write_text(text)


def _for_yaml(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _for_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_for_yaml(item) for item in value]
    return value if isinstance(value, bool | int | float | str | bytes | None) else str(value)
