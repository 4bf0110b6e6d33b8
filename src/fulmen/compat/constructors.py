"""Old arguments of callbacks and strategies; their classes take them when an old import name has led to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from fulmen.strategy import DDPStrategy
from fulmen.warn import warn_once

RENAMED = {
    "ModelCheckpoint": {
        "period": "every_n_epochs", "every_n_val_epochs": "every_n_epochs", "save_best_only": "save_top_k",
    },
    "EarlyStopping": {},
    "DDPStrategy": {"num_nodes": "", "sync_batchnorm": ""},  # the Trainer knows
    "DDPSpawnStrategy": {"num_nodes": "", "sync_batchnorm": ""},
}  # fmt: skip
"""Old arguments and their names today; "" where the argument means nothing any more."""


def complete(found: Any) -> None:
    """Let a class take the arguments that it once had."""
    original: Callable[..., None] = found.__init__
    if hasattr(original, "takes_old"):
        return
    kind, renamed = found.__name__, RENAMED[found.__name__]
    _add_members(found, kind)

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs.keys() & renamed.keys():
            today, value = renamed[name], kwargs.pop(name)
            if name == "save_best_only":
                value = 1 if value else -1
                os.makedirs(kwargs.get("filepath") or ".", exist_ok=True)  # it was always a folder then
            if today:
                kwargs[today] = value
            warn_once(f"{kind}({name}={value!r}) is {f'{today}=' if today else 'not needed'} today.")
        if kind == "ModelCheckpoint":
            args = _filename(self, args, kwargs)
        elif kind == "EarlyStopping" and not args:
            kwargs.setdefault("monitor", "val_loss")
        if kwargs.get("mode") == "auto":
            monitor = str(kwargs.get("monitor") or (args[0] if args else ""))
            kwargs["mode"] = "max" if "acc" in monitor or monitor.startswith("fmeasure") else "min"
        original(self, *args, **kwargs)

    init.takes_old = True  # type: ignore[attr-defined]
    found.__init__ = init


def _add_members(found: Any, kind: str) -> None:
    if kind == "ModelCheckpoint":
        found.kth_best_model = property(lambda self: self.kth_best_model_path)
        found.best = property(lambda self: self.best_model_score)
        found._monitor_candidates = found._candidates
        found.on_save_checkpoint = _returning_state(found.on_save_checkpoint)
    elif kind == "EarlyStopping":
        check = found._run_early_stopping_check
        found._run_early_stopping_check = lambda self, trainer, *_: check(self, trainer)  # the module was told, too


def _returning_state(function: Callable[..., None]) -> Callable[..., Any]:
    """The hook, which gave what it saved to those that override it."""

    @wraps(function)
    def on_save_checkpoint(self: Any, *args: Any) -> Any:
        function(self, *args)
        overridden = not hasattr(type(self).on_save_checkpoint, "__wrapped__")
        return self.state_dict() if overridden else None

    return on_save_checkpoint


def _filename(callback: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """`filepath`, a folder or a folder with a template, as `dirpath` and `filename`; and `prefix` in front of it.

    Beside `filepath`, nothing stood between the prefix and the name, a hyphen afterwards.
    """
    if args and "{" in str(args[0]):  # a template as the first argument: that was `filepath`
        kwargs["filepath"], args = args[0], args[1:]
        kwargs.update(zip(("monitor", "verbose", "save_last", "save_top_k"), args, strict=False))
        args = ()
    path, prefix = kwargs.pop("filepath", None), kwargs.pop("prefix", "")
    if path:
        if (kwargs.get("save_top_k") or 1) > 1 and kwargs.get("monitor") is None:
            kwargs["monitor"] = "val_loss"  # what the best were the best of, until 1.0
        folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
        name = name or "{epoch}"
        kwargs |= {"dirpath": folder or ".", "filename": name}
        warn_once(f"ModelCheckpoint(filepath={str(path)!r}) is dirpath={folder!r}, filename={name!r} today.")
    if prefix:
        prefix += "" if path else "-"
        kwargs["filename"] = f"{prefix}{kwargs.get('filename') or '{epoch}-{step}'}"
        callback.CHECKPOINT_NAME_LAST = f"{prefix}last"
        warn_once(f"ModelCheckpoint(prefix={prefix!r}) is part of filename= today.")
    return args


class _Spawning(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, DDPStrategy) and instance.start_method == "spawn"


class DDPSpawnStrategy(DDPStrategy, metaclass=_Spawning):
    """DDP in processes that each verb of the trainer starts for itself."""

    def __init__(self, *args: Any, start_method: str = "spawn", **kwargs: Any) -> None:
        super().__init__(*args, start_method=start_method, **kwargs)
