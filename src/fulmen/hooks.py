"""Who overrides which hook, resolved once before a run into tuples of bound calls."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher, get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.base import Callback, Checkpoint
from fulmen.errors import MisconfigurationException
from fulmen.warn import rank_zero_warn

if TYPE_CHECKING:
    from fulmen.module import LightningModule

Hook = Callable[..., Any]

EVALUATION = ("validation", "test", "predict")

# Hooks that callbacks and the module share, with what they are given after (trainer, pl_module).
SHARED: dict[str, tuple[str, ...]] = {
    "on_fit_start": (), "on_fit_end": (),
    "on_train_start": (), "on_train_end": (), "on_train_epoch_start": (), "on_train_epoch_end": (),
    "on_train_batch_start": ("batch", "batch_idx"), "on_train_batch_end": ("outputs", "batch", "batch_idx"),
    "on_before_backward": ("loss",), "on_after_backward": (),
    "on_before_optimizer_step": ("optimizer",), "on_before_zero_grad": ("optimizer",),
    "on_save_checkpoint": ("checkpoint",), "on_load_checkpoint": ("checkpoint",),
}  # fmt: skip
for _stage in EVALUATION:
    SHARED |= {f"on_{_stage}_{_when}": () for _when in ("start", "end", "epoch_start", "epoch_end")}
    SHARED[f"on_{_stage}_batch_start"] = ("batch", "batch_idx", "dataloader_idx")
    SHARED[f"on_{_stage}_batch_end"] = ("outputs", "batch", "batch_idx", "dataloader_idx")

CALLBACK_ONLY: dict[str, tuple[str, ...]] = {
    "on_sanity_check_start": (), "on_sanity_check_end": (), "on_exception": ("exception",),
    "setup": ("stage",), "teardown": ("stage",),
}  # fmt: skip

MODULE_ONLY: dict[str, tuple[str, ...]] = {
    "setup": ("stage",), "teardown": ("stage",), "prepare_data": (), "configure_model": (),
    "configure_sharded_model": (), "configure_callbacks": (), "configure_optimizers": (),
    "optimizer_step": ("epoch", "batch_idx", "optimizer", "optimizer_closure"),
    "optimizer_zero_grad": ("epoch", "batch_idx", "optimizer"), "lr_scheduler_step": ("scheduler", "metric"),
    "configure_gradient_clipping": ("optimizer", "gradient_clip_val", "gradient_clip_algorithm"),
    "backward": ("loss",), "on_before_batch_transfer": ("batch", "dataloader_idx"),
    "transfer_batch_to_device": ("batch", "device", "dataloader_idx"),
    "on_after_batch_transfer": ("batch", "dataloader_idx"),
    "on_validation_model_eval": (), "on_validation_model_train": (), "on_validation_model_zero_grad": (),
    "on_test_model_eval": (), "on_test_model_train": (), "on_predict_model_eval": (),
}  # fmt: skip

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


# Checkpoints' hooks run when all others of the moment are done, under "late_...": what they save is then complete.
LATE = {
    "on_train_batch_end": "late_train_batch_end",
    "on_validation_end": "late_validation_end",
    "on_train_epoch_end": "late_train_epoch_end",
}


class HookTable:
    """One tuple of bound calls per hook: callbacks in their order, then the module; checkpoint-like ones where due."""

    def __init__(self, calls: dict[str, tuple[Hook, ...]], callbacks: list[Callback]) -> None:
        self.__dict__.update(calls)
        self.callbacks = callbacks  # what the table was built from; compared at each epoch

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> tuple[Hook, ...]: ...


def overrides(owner: object, name: str, base: type) -> bool:
    """Whether `owner` brings its own `name`, by its class or as an attribute of the instance."""
    if name in getattr(owner, "__dict__", {}):
        return True
    own = getattr(type(owner), name, None)
    return own is not None and own is not getattr(base, name, None)


def order(callbacks: Sequence[Callback]) -> list[Callback]:
    """The user's order, checkpoints last."""
    return sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))


def build(trainer: Any, module: LightningModule, callbacks: Sequence[Callback]) -> HookTable:
    """Ask every callback and the module once which hooks they override; check that each can be called as it will be."""
    from fulmen.module import LightningModule

    calls: dict[str, tuple[Hook, ...]] = {}
    checks: list[Hook] = []  # EarlyStopping's and bars', between those of an epoch's end and the late ones
    for name, given in (SHARED | CALLBACK_ONLY).items():
        found: list[Hook] = []
        late: list[Hook] = []
        for callback in callbacks:
            if overrides(callback, name, Callback):
                hook = partial(fitted(callback, name, ("trainer", "pl_module", *given)), trainer, module)
                is_check = name == "on_train_epoch_end" and getattr(callback, "runs_late", False)
                is_late = name in LATE and isinstance(callback, Checkpoint)
                (checks if is_check else late if is_late else found).append(hook)
        if name in SHARED and overrides(module, name, LightningModule):
            found.append(fitted(module, name, given))
        calls[name] = tuple(found)
        if name in LATE:
            calls[LATE[name]] = tuple(late)
    calls["checks_train_epoch_end"] = tuple(checks)
    for name, given in MODULE_ONLY.items():
        key = name if name not in calls else f"module_{name}"
        calls[key] = (fitted(module, name, given),) if overrides(module, name, LightningModule) else ()
    if has_others(module, LightningModule) or any(has_others(callback, Callback) for callback in callbacks):
        from fulmen.compat.hooks import complete

        complete(calls, trainer, module, callbacks)
    return HookTable(calls, list(callbacks))


def method(owner: object, name: str) -> Hook:
    """The bound hook or step, which the user may have overwritten with something else."""
    found = getattr(owner, name)
    if not callable(found):
        raise TypeError(f"{type(owner).__name__}.{name} must be a method, but is set to a {type(found).__name__}.")
    return found


def fitted(owner: object, name: str, given: tuple[str, ...]) -> Hook:
    """The bound hook, checked to accept what it will be given; another spelling of it is adapted in compat."""
    hook = method(owner, name)
    fitting: Hook | None = hook if accepts(hook, len(given)) else None
    if fitting is None and given[-1:] == ("dataloader_idx",) and accepts(hook, len(given) - 1):
        fitting = _without_last(hook)
    if fitting is not None and not _renames(hook, given):
        return fitting
    from fulmen.compat.hooks import adapt

    fitting = adapt(owner, name, hook, given) or fitting
    if fitting is not None:
        return fitting
    raise TypeError(
        f"{type(owner).__name__}.{name}{inspect.signature(hook)} cannot take its arguments; "
        f"write the signature as: def {name}({', '.join(('self', *given))})."
    )


def _renames(hook: Hook, given: tuple[str, ...]) -> bool:
    """Whether a parameter has another name than what it will be given: it may be meant for something else."""
    names = positional(hook)
    differ = (name != what and what not in ("trainer", "pl_module") for name, what in zip(names, given, strict=False))
    return len(names) > len(given) or any(differ)


def positional(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that can be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _without_last(hook: Hook) -> Hook:
    """For a hook that leaves `dataloader_idx` out of its signature."""
    return lambda *arguments: hook(*arguments[:-1])


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether `function` can be called with `count` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: let the call itself tell
        return True
    return True


def check_step(module: LightningModule, name: str) -> str:
    """How the step wants to be called: "batch", "batch_idx", "dataloader_idx" (needs all three), "iterator" or "more".

    The step may be written as (batch), (batch, batch_idx), (batch, batch_idx, dataloader_idx) or (dataloader_iter).
    """
    step = method(module, name)
    try:
        parameters = list(inspect.signature(step).parameters.values())
    except (TypeError, ValueError):
        return "batch_idx"
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return "optional_dataloader_idx" if name != "training_step" else "batch_idx"
    named = positional(step)
    if named[:1] == ["dataloader_iter"]:
        return "iterator"
    required = sum(p.default is p.empty for p in parameters if p.kind is not p.VAR_KEYWORD)
    most = 3 if name != "training_step" else 2
    if len(named) > most:
        from fulmen.compat.hooks import knows_step

        if knows_step(name, named):
            return "more"
    if not named or required > most:
        wanted = "(self, batch, batch_idx)" if most == 2 else "(self, batch, batch_idx, dataloader_idx=0)"
        raise TypeError(
            f"{type(module).__name__}.{name}{inspect.signature(step)} cannot take a batch; its signature must be "
            f"{wanted}, (self, batch) or (self, dataloader_iter): remove or default the others."
        )
    if named[1:2] == ["dataloader_idx"]:
        return "dataloader_idx_only"
    if len(named) >= 3 and most == 3:
        return "dataloader_idx" if required == 3 else "optional_dataloader_idx"
    return "batch" if len(named) == 1 else "batch_idx"


def check_spelling(owner: object, base: type) -> None:
    """Warn about methods of the user's that look like a hook written wrong and that nothing will call."""
    known = {n for n in dir(base) if not n.startswith("_")}
    hooks = [n for n in known if n.startswith(("on_", "configure_")) or n in (*STEPS, *LOADERS, *MODULE_ONLY)]
    for name in _own_methods(type(owner), base) - known:
        close = get_close_matches(name, hooks, 1, 0.85 if name.startswith("on_") else 0.93)
        if not close:
            continue
        from fulmen.compat.hooks import knows

        if knows(name):
            continue
        if name.startswith("on_") or not overrides(owner, close[0], base):
            rank_zero_warn(f"{type(owner).__name__}.{name} is never called. Did you mean {close[0]!r}?")


def resembling(owner: object, base: type, hook: str) -> str:
    """A sentence about the user's method that looks most like the missing `hook`, or nothing."""
    best = max(_own_methods(type(owner), base), key=lambda n: SequenceMatcher(None, n, hook).ratio(), default="")
    if SequenceMatcher(None, best, hook).ratio() < 0.75:
        return ""
    return f" It has {best!r}: did you mean {hook!r}?"


def has_others(owner: object, base: type) -> bool:
    """Whether the user's methods may be hooks that today's class has not; with compat in use, it knows better."""
    ends = ("_start", "_end", "_check", "_interrupt", "_dataloader", "_save", "_load", "_device")
    own = _own_methods(type(owner), base) - set(dir(base))
    return "fulmen.compat" in sys.modules or any(name.endswith(ends) for name in own)


def reported(module: LightningModule, output: dict[str, Any]) -> None:
    """A training step may hand out values for loggers ("log") and for the bar ("progress_bar") beside its loss."""
    from fulmen.compat.results import report

    report(module, output)


def _own_methods(cls: type, base: type) -> set[str]:
    classes = [c for c in cls.__mro__ if c not in base.__mro__ and not c.__module__.startswith("fulmen.")]
    return {n for c in classes for n, v in vars(c).items() if not n.startswith("_") and inspect.isfunction(v)}


def require(owner: object, base: type, hook: str, why: str) -> None:
    """Raise, naming the hook, unless `owner` overrides it."""
    if not overrides(owner, hook, base):
        raise MisconfigurationException(
            f"{type(owner).__name__} has no {hook}; define it {why}.{resembling(owner, base, hook)}"
        )
