"""Trainer's arguments as one checked, frozen value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from numbers import Integral, Real
from typing import Any, TypeGuard

from fulmen.errors import MisconfigurationException, nearest
from fulmen.warn import rank_zero_info, rank_zero_warn

LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches")


@dataclass(frozen=True)
class Options:
    """What the Trainer was asked for, after checks and presets; the fields are the Trainer's arguments."""

    accelerator: Any = "auto"
    strategy: Any = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    precision: Any = None
    logger: Any = None
    callbacks: Any = None
    fast_dev_run: bool | int = False
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | timedelta | dict[str, int] | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: bool | str | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    profiler: Any = None
    detect_anomaly: bool = False
    barebones: bool = False
    plugins: Any = None
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0
    default_root_dir: Any = None
    enable_autolog_hparams: bool = True
    model_registry: str | None = None
    nonfinite: str | None = None
    resume: str | None = None
    async_save: bool = False
    accumulate_across_epochs: bool = False
    compile: Any = None
    cuda_graph: bool = False


NAMES = tuple(field.name for field in fields(Options))


def check(arguments: dict[str, Any]) -> Options:
    """The arguments, each checked by itself and with the others; raises before anything is built."""
    options = Options(**arguments)
    if isinstance(options.logger, Iterator):  # read once
        options = replace(options, logger=list(options.logger))
    _check_counts(options)
    _check_limits(options)
    _check_choices(options)
    _check_switches(options)
    _check_absent(options)
    _check_loggers(options)
    _check_callbacks(options)
    if options.barebones:
        options = _barebones(options)
    if "FULMEN_REPLAY" in os.environ:  # one step of what may have been one of many ranks
        options = replace(options, devices=1, num_nodes=1, strategy="auto")
    options = _defaults(options)
    return _fast_dev_run(options) if options.fast_dev_run else options


def unknown(name: str, older: Iterable[str] = ()) -> TypeError:
    """The error for an argument that the Trainer does not have."""
    from fulmen import callbacks

    callback = next((one for one in dir(callbacks) if one.lower() == name.replace("_", "")), None)
    others = f" Did you mean callbacks=[{callback}(...)]?" if callback else nearest(name, NAMES)
    others = others or nearest(name.removeprefix("num_"), older) or " See help(fulmen.Trainer) for all."
    return TypeError(f"Trainer has no argument {name!r}.{others}")


UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def seconds(value: str | timedelta | dict[str, int], argument: str) -> float:
    """A duration given as "DD:HH:MM:SS", timedelta or its keywords."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        try:
            return timedelta(**value).total_seconds()
        except TypeError:
            raise MisconfigurationException(
                f"{argument}={value!r} must have numbers under the keywords of timedelta: {UNITS}."
                + "".join(nearest(word, UNITS) for word in value if word not in UNITS)
            ) from None
    parts = str(value).split(":")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise MisconfigurationException(
            f"{argument}={value!r} is not a duration. Give 'DD:HH:MM:SS', a timedelta or its keywords as a dict."
        )
    days, hours, minutes, rest = (int(part) for part in parts)
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=rest).total_seconds()


NATIVE: tuple[Any, ...] = (
    (Integral, int, int), (Real, (int, float), float), (Mapping, dict, dict), (Sequence, (str, list, tuple), list),
)  # fmt: skip


def native(value: Any) -> Any:
    """Numbers of NumPy's as Python's, and lists and dicts that a configuration has of its own kind as plain ones."""
    for kind, known, make in NATIVE:
        if isinstance(value, kind):
            return value if isinstance(value, known) else make(value)
    return value


def listed(given: Any) -> list[Any]:
    """An argument that takes one thing or several, as a list."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(options: Options, name: str, least: int, words: str, none: bool = False) -> None:
    value: Any = getattr(options, name)
    if (value is None and none) or (is_count(value) and value >= least):
        return
    kind = TypeError if not is_count(value) and value is not None else MisconfigurationException
    raise kind(f"{name}={value!r} must be {words}.")


def _check_counts(options: Options) -> None:
    _count(options, "max_epochs", -1, "a non-negative int, -1 for no limit, or None", none=True)
    _count(options, "min_epochs", 0, "a non-negative int or None", none=True)
    _count(options, "max_steps", -1, "a non-negative int, or -1 for no limit")
    _count(options, "min_steps", 0, "a non-negative int or None", none=True)
    _count(options, "num_nodes", 1, "a positive int")
    _count(options, "num_sanity_val_steps", -1, "a non-negative int, or -1 for all batches", none=True)
    _count(options, "log_every_n_steps", 0, "a positive int, or 0 for no logging of steps", none=True)
    _count(options, "check_val_every_n_epoch", 1, "a positive int, or None to count batches over epochs", none=True)
    _count(options, "reload_dataloaders_every_n_epochs", 0, "a non-negative int")
    if not is_count(options.accumulate_grad_batches) or options.accumulate_grad_batches < 1:
        raise MisconfigurationException(
            f"accumulate_grad_batches={options.accumulate_grad_batches!r} must be a positive int. To change it during "
            "training, add GradientAccumulationScheduler(scheduling={...}) to callbacks."
        )
    if options.max_time is not None:
        seconds(options.max_time, "max_time")
    for least, most in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        low, high = getattr(options, least), getattr(options, most)
        if low and high is not None and -1 < high < low:
            rank_zero_warn(f"{least}={low} is above {most}={high}: training ends at {most}.")


def _check_limits(options: Options) -> None:
    for name in (*LIMITS, "overfit_batches"):
        value = getattr(options, name)
        is_number = isinstance(value, (int, float))
        if value is None or (is_number and value >= 0 and (value <= 1 or value == math.inf or value == int(value))):
            continue
        kind = MisconfigurationException if is_number else TypeError
        raise kind(f"{name}={value!r} must be an int (batches) or a float between 0.0 and 1.0 (share of the epoch).")
    interval = options.val_check_interval
    if options.check_val_every_n_epoch is None and isinstance(interval, float) and interval != 1.0:
        raise MisconfigurationException(
            f"check_val_every_n_epoch=None counts batches over epochs, so val_check_interval={interval!r} must be an "
            "int."
        )
    if interval is None or (is_count(interval) and interval >= 1):
        return
    if isinstance(interval, float) and 0.0 < interval <= 1.0:
        return
    if isinstance(interval, (str, timedelta, dict)):
        seconds(interval, "val_check_interval")
        return
    raise MisconfigurationException(
        f"val_check_interval={interval!r} must be an int (batches), a float above 0.0 and up to 1.0 (share of the "
        "epoch), or a duration such as '00:00:15:00'."
    )


SWITCHES = tuple(field.name for field in fields(Options) if field.type in ("bool", "bool | None"))


CHOICES: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_clip_algorithm": (("norm", "value", None), ""),
    "nonfinite": (
        ("warn", "stop", "skip", "rewind", None),
        "; with None a run stops too, but no step waits for a look at its gradients",
    ),
    "resume": (("auto", None), "; a file to go on from is given to fit(ckpt_path=...)"),
    "deterministic": ((True, False, "warn", None), ""),
}
"""What is allowed, and what else there is to say of it."""


def _check_choices(options: Options) -> None:
    if not isinstance(options.fast_dev_run, (bool, int)) or options.fast_dev_run < 0:
        raise TypeError(
            f"fast_dev_run={options.fast_dev_run!r} must be a bool, or an int: the number of batches to run."
        )
    value = options.gradient_clip_val
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"gradient_clip_val={value!r} must be an int or float.")
    _check_compile(options.compile)
    for name, (allowed, more) in CHOICES.items():
        value = getattr(options, name)
        if value not in allowed and (name != "gradient_clip_algorithm" or str(value).lower() not in allowed):
            *first, last = map(repr, allowed)
            hint = nearest(value, [one for one in allowed if isinstance(one, str)])
            raise MisconfigurationException(f"{name}={value!r} must be {', '.join(first)} or {last}{more}.{hint}")


COMPILE = ("fullgraph", "dynamic", "backend", "mode", "options", "disable")


def _check_compile(given: Any) -> None:
    if given not in (None, True, False) and not isinstance(given, dict):
        raise TypeError(f"compile={given!r} must be True, False, or a dict of torch.compile's arguments: {COMPILE}.")
    for name in given if isinstance(given, dict) else ():
        if name not in COMPILE:
            raise MisconfigurationException(
                f"compile has the key {name!r}, which torch.compile does not take.{nearest(name, COMPILE)} "
                f"Its arguments are {COMPILE}."
            )


def _check_switches(options: Options) -> None:
    for name in SWITCHES:
        if getattr(options, name) not in (None, True, False):
            raise TypeError(f"{name}={getattr(options, name)!r} must be True or False.")
    if not isinstance(options.default_root_dir, (str, os.PathLike, type(None))):
        raise TypeError(f"default_root_dir={options.default_root_dir!r} must be a path.")


def _check_absent(options: Options) -> None:
    if options.profiler is not None:
        words = ("simple", "advanced", "pytorch", "xla")
        hint = "" if options.profiler in words else nearest(options.profiler, words)
        raise MisconfigurationException(
            f"profiler={options.profiler!r}: profilers are not part of Fulmen yet; leave the argument out. "
            f"Their names will be {words}.{hint}"
        )
    if options.model_registry is not None:
        raise MisconfigurationException(
            "model_registry needs a registry service that Fulmen does not speak to; leave it out."
        )


def _check_loggers(options: Options) -> None:
    from fulmen.loggers.base import Logger

    given = options.logger
    if given is None or isinstance(given, (bool, Logger)):
        return
    for logger in given if isinstance(given, Iterable) and not isinstance(given, (str, dict)) else [given]:
        if not isinstance(logger, Logger):
            raise TypeError(
                f"logger={logger!r} must be True, False, a Logger instance such as TensorBoardLogger('.'), or a list "
                "of them."
            )


def _check_callbacks(options: Options) -> None:
    from fulmen.callbacks.base import Callback, Checkpoint

    callbacks = listed(options.callbacks)
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"callbacks has the class {callback.__name__}; give an instance: {callback.__name__}(...).")
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks has {callback!r}, which is not an instance of fulmen.Callback.")
    if options.enable_checkpointing is False and any(isinstance(c, Checkpoint) for c in callbacks):
        raise MisconfigurationException(
            "callbacks has a ModelCheckpoint, but enable_checkpointing=False. Set it to True or remove the callback."
        )
    bars = [c for c in callbacks if hasattr(c, "get_metrics") and hasattr(c, "total_train_batches")]
    if len(bars) > 1:
        raise MisconfigurationException("callbacks has more than one progress bar; keep one of them.")
    if bars and options.enable_progress_bar is False:
        raise MisconfigurationException(
            f"callbacks has {type(bars[0]).__name__}, but enable_progress_bar=False. Set it to True or remove the "
            "callback."
        )


DEFAULTS: dict[str, Any] = {
    "logger": True, "val_check_interval": 1.0, "num_sanity_val_steps": 2, "log_every_n_steps": 50,
    "enable_checkpointing": True, "enable_progress_bar": True, "enable_model_summary": True,
    **dict.fromkeys(LIMITS, 1.0),
}  # fmt: skip
"""What None stands for."""


def _defaults(options: Options) -> Options:
    max_epochs = options.max_epochs
    if max_epochs is None:
        if options.max_steps == -1 and options.max_time is None and not options.fast_dev_run:
            rank_zero_warn("max_epochs was not set: training runs for 1000 epochs. For no limit set max_epochs=-1.")
            max_epochs = 1000
        else:
            max_epochs = -1
    changes = {name: value for name, value in DEFAULTS.items() if getattr(options, name) is None}
    changes |= {name: int(getattr(options, name)) for name in LIMITS if isinstance(getattr(options, name), bool)}
    if options.overfit_batches:
        changes |= dict.fromkeys(("limit_train_batches", "limit_val_batches"), options.overfit_batches)
    ones = [n for n in LIMITS if is_count(getattr(options, n)) and getattr(options, n) == 1]
    if ones and not options.fast_dev_run:
        rank_zero_info(f"{ones[0]}=1 runs 1 batch; for the whole epoch write 1.0.")
    return replace(
        options,
        max_epochs=max_epochs,
        callbacks=listed(options.callbacks),
        default_root_dir=_folder(options.default_root_dir),
        **changes,
    )


def _folder(root: Any) -> str:
    root = os.getcwd() if root is None else os.fspath(root)
    return root if "://" in root else os.path.normpath(os.path.expanduser(root))


def _fast_dev_run(options: Options) -> Options:
    count = int(options.fast_dev_run)
    rank_zero_info(f"fast_dev_run: {count} batch(es) of each loop, no logger, no checkpoint.")
    return replace(
        options, max_steps=count, max_epochs=1, num_sanity_val_steps=0, val_check_interval=1.0,
        check_val_every_n_epoch=1, **dict.fromkeys(LIMITS, count),
    )  # fmt: skip


def _barebones(options: Options) -> Options:
    off = {
        "enable_checkpointing": False, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "log_every_n_steps": 0,
    }  # fmt: skip
    asked = (*off, "fast_dev_run", "detect_anomaly", "profiler")
    wrong = [f"{name}={value!r}" for name in asked if (value := getattr(options, name))]
    if wrong:
        raise MisconfigurationException(
            f"barebones=True turns off what {', '.join(wrong)} asks for; drop one of the two."
        )
    return replace(options, **off)
