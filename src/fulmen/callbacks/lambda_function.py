"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from fulmen.callbacks.base import Callback
from fulmen.errors import nearest

HOOKS = [name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")]


class LambdaCallback(Callback):
    """Each keyword is a hook of `Callback`, its value a function with that hook's arguments.

    Trainer(callbacks=[LambdaCallback(on_train_end=lambda trainer, pl_module: print("done"))])
    """

    __signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in HOOKS])

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, function in hooks.items():
            if name not in HOOKS:
                raise TypeError(f"LambdaCallback has no hook {name!r}.{nearest(name, HOOKS)}")
            if function is not None:
                setattr(self, name, function)
