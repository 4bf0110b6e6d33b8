"""Class methods that filled a command line from a constructor: `Trainer.add_argparse_args` and its kin.

Today's classes do not have them; they get them when they are first reached by an old import name.
"""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from ast import literal_eval
from functools import wraps
from typing import Any

from fulmen.compat import callbacks, hooks, loaders, loggers
from fulmen.compat.arguments import DEFAULTS, RULES, asks_nothing
from fulmen.compat.names import newest_import


def defaults(cls: type) -> dict[str, Any]:
    """The arguments of a class and their defaults; the Trainer's with the old ones."""
    if cls.__name__ == "Trainer":
        return {**DEFAULTS, **dict.fromkeys(name for name in RULES if name not in DEFAULTS)}
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    inherited = [defaults(base) for base in cls.__mro__[1:] if base.__name__ == "Trainer"]
    return {**dict(*inherited), **{p.name: None if p.default is p.empty else p.default for p in named}}


def add_argparse_args(cls: type, parent_parser: ArgumentParser, use_argument_group: bool = True) -> ArgumentParser:
    """Give the parser an option for each argument of the class; options of the same name that follow replace them."""
    for part in (parent_parser, *parent_parser._action_groups):
        part.conflict_handler = "resolve"
    target: Any = parent_parser.add_argument_group(f"pl.{cls.__name__}") if use_argument_group else parent_parser
    for name, default in defaults(cls).items():
        if f"--{name}" in parent_parser._option_string_actions:
            continue
        optional = {"nargs": "?", "const": True} if isinstance(default, bool) or default is None else {}
        target.add_argument(f"--{name}", default=default, type=str if name.endswith("_dir") else value, **optional)
    return parent_parser


def from_argparse_args(cls: type, args: Namespace | ArgumentParser, **kwargs: Any) -> Any:
    """An instance from the options of a command line; keywords go first."""
    given = vars(parse_argparser(cls, args))
    chosen = {name: given[name] for name in defaults(cls) if name in given and not asks_nothing(name, given[name])}
    return cls(**{**chosen, **kwargs})


def parse_argparser(cls: type, arg_parser: ArgumentParser | Namespace) -> Namespace:
    """The options, read from the command line if that was not done yet."""
    return arg_parser.parse_args() if isinstance(arg_parser, ArgumentParser) else arg_parser


def get_deprecated_arg_names(cls: type) -> list[str]:
    return [name for name in RULES if name not in DEFAULTS]


def value(text: str) -> Any:
    """An option's text as the number, bool or None that it spells, else as it stands."""
    try:
        spelled = literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text
    return spelled if spelled is None or isinstance(spelled, (bool, int, float)) else text


TRAINER: Any = (add_argparse_args, from_argparse_args, parse_argparser, get_deprecated_arg_names)


def complete(found: Any) -> None:
    """Give the Trainer, or the datamodule, the class methods that only old code calls on it."""
    is_trainer = found.__name__ == "Trainer"
    for function in TRAINER if is_trainer else TRAINER[:2]:
        setattr(found, function.__name__, classmethod(function))
    if is_trainer:
        found.default_attributes = classmethod(defaults)
        found.current_epoch = callbacks.settable("epoch", found.current_epoch)
        found.global_step = callbacks.settable("steps", found.global_step)
        found.fit = _fit_of_then(found.fit)
        loaders.complete(found)
        loggers.complete_trainer(found)


def _fit_of_then(function: Any) -> Any:
    """`fit`, which returned 1 until 1.3, in a program that imports nothing newer, and ended well with Ctrl-C."""

    @wraps(function)
    def fit(self: Any, *args: Any, **kwargs: Any) -> int | None:
        try:
            function(self, *args, **kwargs)
        except KeyboardInterrupt:
            if not hooks.is_of_then(self):
                raise
        return 1 if (0, 5) <= newest_import() < (1, 3) else None

    return fit
