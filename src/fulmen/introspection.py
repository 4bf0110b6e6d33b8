"""What an object was made with and what it brings of its own."""

from __future__ import annotations

import inspect
import pickle
from argparse import Namespace
from collections.abc import Iterable, MutableMapping
from types import FrameType
from typing import Any

from fulmen.hooks import overrides


def is_overridden(method_name: str, instance: object | None = None, parent: type | None = None) -> bool:
    """Whether `instance` has its own version of a method that it gets from `parent` (by default, Fulmen's class)."""
    if instance is None:
        return False
    if parent is None:
        from fulmen import Callback, LightningDataModule, LightningModule

        parent = next((k for k in (LightningModule, LightningDataModule, Callback) if isinstance(instance, k)), None)
        if parent is None:
            raise ValueError(f"is_overridden needs parent=: {type(instance).__name__} is not one of Fulmen's classes.")
    return hasattr(parent, method_name) and overrides(instance, method_name, parent)


def is_picklable(obj: object) -> bool:
    """Whether `obj` can be sent to another process."""
    try:
        pickle.dumps(obj)
    except (pickle.PickleError, AttributeError, RuntimeError, TypeError):
        return False
    return True


def clean_namespace(hparams: MutableMapping[str, Any] | Namespace) -> None:
    """Remove, in place, what cannot be pickled."""
    items = vars(hparams) if isinstance(hparams, Namespace) else hparams
    for name in [name for name, value in items.items() if not is_picklable(value)]:
        del items[name]


def parse_class_init_keys(cls: type) -> tuple[str, str | None, str | None]:
    """The names that a class's `__init__` gives to self, *args and **kwargs."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]
    star = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    return parameters[0].name, star, next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)


def get_init_args(frame: FrameType) -> dict[str, Any]:
    """The arguments of the `__init__` that runs in `frame`, without self and *args; {} in any other function."""
    values = frame.f_locals
    if "__class__" not in values or frame.f_code.co_name != "__init__":
        return {}
    own, star, keywords = parse_class_init_keys(values["__class__"])
    names = inspect.signature(values["__class__"].__init__).parameters
    found = {name: values[name] for name in names if name in values and name not in (own, star, keywords)}
    return found | (values[keywords] if keywords else {})


def collect_init_args(
    frame: FrameType, path_args: list[dict[str, Any]], inside: bool = False, classes: tuple[type, ...] = ()
) -> list[dict[str, Any]]:
    """The arguments of each `__init__` that is running, from the one in `frame` outwards to the most derived class."""
    kind = frame.f_locals.get("__class__")
    fits = isinstance(kind, type) and (not classes or issubclass(kind, classes))
    if fits and (found := get_init_args(frame)):
        path_args, inside = [*path_args, found], True
    elif inside:
        return path_args
    return path_args if frame.f_back is None else collect_init_args(frame.f_back, path_args, inside, classes)


def save_hyperparameters(
    obj: Any,
    *args: Any,
    ignore: Iterable[str] | str | None = None,
    frame: FrameType | None = None,
    given_hparams: dict[str, Any] | None = None,
) -> None:
    """`obj.save_hyperparameters(...)` as a function; `given_hparams` win over what the frames say."""
    caller = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
    obj.save_hyperparameters(*([given_hparams] if given_hparams else args), ignore=ignore, frame=caller)


def lightning_hasattr(model: Any, attribute: str) -> bool:
    """Whether the module, its hyperparameters or its datamodule (with hyperparameters) has the attribute."""
    return any(_has(holder, attribute) for holder in _holders(model))


def lightning_getattr(model: Any, attribute: str) -> Any:
    """The attribute from the first of them that has it."""
    holder = next((holder for holder in _holders(model) if _has(holder, attribute)), None)
    if holder is None:
        raise AttributeError(f"Neither {type(model).__name__} nor its hparams nor the datamodule has {attribute!r}.")
    return holder[attribute] if isinstance(holder, MutableMapping) else getattr(holder, attribute)


def lightning_setattr(model: Any, attribute: str, value: Any) -> None:
    """Set the attribute on each of them that has it."""
    lightning_getattr(model, attribute)
    for holder in _holders(model):
        if isinstance(holder, MutableMapping) and attribute in holder:
            holder[attribute] = value
        elif _has(holder, attribute):
            setattr(holder, attribute, value)


def _has(holder: Any, attribute: str) -> bool:
    return attribute in holder if isinstance(holder, MutableMapping) else hasattr(holder, attribute)


def _holders(model: Any) -> list[Any]:
    trainer = getattr(model, "_trainer", None)
    owners = [model, getattr(trainer, "datamodule", None)]
    return [holder for owner in owners if owner is not None for holder in (owner, getattr(owner, "hparams", {}))]
