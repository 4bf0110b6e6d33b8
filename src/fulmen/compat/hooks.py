"""Hooks by older names and with older signatures: turned into today's calls once, when the hook table is built.

What the user's classes define decides; a class of today costs nothing here, and nothing below runs in a step that does
not belong to an old hook. Three kinds: moments that have another name today (`MOMENTS`), hooks that got what the steps
of an epoch returned (`ENDS`), functions that a step's output went through (`STEP_ENDS`). `adapt` is for hooks of
today's name with arguments of another day. Where one of these names meant more than one thing, the oldest and longest
meaning is taken: `on_epoch_start` and `on_epoch_end` run in training epochs only, unless the program imports what is
of 1.2 or later.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import zip_longest
from types import MethodType
from typing import Any

import torch

from fulmen.callbacks.base import Callback
from fulmen.callbacks.progress import ProgressBar
from fulmen.compat import devices, results
from fulmen.compat.callbacks import settable
from fulmen.datamodule import LightningDataModule
from fulmen.hooks import CALLBACK_ONLY, LATE, SHARED, STEPS, accepts, check_step, overrides, positional
from fulmen.module import LightningModule
from fulmen.warn import warn_once

Call = Callable[..., Any]

BEFORE, AFTER = "before", "after"
CALLBACKS, MODULE, BOTH = (Callback,), (LightningModule,), (Callback, LightningModule)

# An old name: the hook at whose moment it is called, on which side of it, and whose it was.
MOMENTS: dict[str, tuple[str, str, tuple[type, ...]]] = {
    "on_batch_start": ("on_train_batch_start", BEFORE, BOTH),
    "on_batch_end": ("on_train_batch_end", AFTER, BOTH),
    "on_epoch_start": ("on_train_epoch_start", BEFORE, BOTH),
    "on_epoch_end": ("on_train_epoch_end", AFTER, BOTH),
    "on_pretrain_routine_start": ("on_fit_start", AFTER, BOTH),
    "on_pretrain_routine_end": ("on_fit_start", AFTER, BOTH),
    "on_post_move_to_device": ("on_fit_start", BEFORE, MODULE),
    "on_sanity_check_start": ("on_sanity_check_start", AFTER, MODULE),
    "on_sanity_check_end": ("on_sanity_check_end", AFTER, MODULE),
    "on_pre_performance_check": ("on_validation_start", BEFORE, MODULE),
    "on_post_performance_check": ("on_validation_end", AFTER, MODULE),
    "on_before_accelerator_backend_setup": ("setup", BEFORE, CALLBACKS),
    "on_configure_sharded_model": ("configure_model", BEFORE, CALLBACKS),
    "on_keyboard_interrupt": ("on_exception", AFTER, CALLBACKS),
    "on_hpc_save": ("on_save_checkpoint", AFTER, MODULE),
    "on_hpc_load": ("on_load_checkpoint", AFTER, MODULE),
    "on_train_dataloader": ("module_setup", AFTER, MODULE),
    "on_val_dataloader": ("module_setup", AFTER, MODULE),
    "on_test_dataloader": ("module_setup", AFTER, MODULE),
    "on_predict_dataloader": ("module_setup", AFTER, MODULE),
}
# From 1.2 on, an epoch of the evaluation was one, too.
EVALUATED = [
    (f"on_epoch_{when}", (f"on_{stage}_epoch_{when}", side, BOTH))
    for when, side in (("start", BEFORE), ("end", AFTER)) for stage in ("validation", "test")
]  # fmt: skip
# Moments that are told apart by the last argument of today's hook.
ONLY: dict[str, Call] = {
    "on_keyboard_interrupt": lambda exception: isinstance(exception, KeyboardInterrupt),
    "on_train_dataloader": lambda stage: stage == "fit",
    "on_val_dataloader": lambda stage: stage in ("fit", "validate"),
    "on_test_dataloader": lambda stage: stage == "test",
    "on_predict_dataloader": lambda stage: stage == "predict",
}
# A hook that got the outputs of an epoch's steps, and the stage whose epoch it ends; the first that is there counts.
ENDS = {
    "training_epoch_end": "train", "validation_epoch_end": "validation", "validation_end": "validation",
    "test_epoch_end": "test", "test_end": "test", "predict_epoch_end": "predict",
}  # fmt: skip
# A function that a step's output went through, and the step.
STEP_ENDS = {
    "training_step_end": "training_step", "training_end": "training_step", "validation_step_end": "validation_step",
    "test_step_end": "test_step",
}  # fmt: skip
CONSTRUCTED = ("on_init_start", "on_init_end")
# What the strategy and the precision do by themselves now.
UNCALLED = (
    "configure_apex", "configure_ddp", "configure_sync_batchnorm", "init_ddp_connection", "amp_scale_loss",
    "add_to_queue", "get_from_queue",
)  # fmt: skip
KNOWN = {*MOMENTS, *ENDS, *STEP_ENDS, *CONSTRUCTED, *UNCALLED, "tng_dataloader", "tbptt_split_batch"}

# Arguments of `self.log` that mean nothing any more.
LOG_ARGUMENTS = ("tbptt_reduce_fx", "tbptt_pad_token", "sync_dist_op")

# Other names of an argument.
SPELLINGS = {
    "epoch": "current_epoch epoch_nb", "batch_idx": "batch_nb batch_i", "dataloader_idx": "dataloader_i unused",
    "optimizer_idx": "optimizer_i opt_idx optimizer_index optimizer_nb", "optimizer_closure": "closure",
}  # fmt: skip
SPELLED = {old: name for name, olds in SPELLINGS.items() for old in olds.split()}

# Older arguments of hooks (after trainer and pl_module), for signatures whose own names say nothing.
SIGNATURES: dict[str, tuple[str, ...]] = {
    "on_train_batch_start": ("batch batch_idx dataloader_idx",),
    "on_train_batch_end": ("outputs batch batch_idx dataloader_idx", "batch batch_idx dataloader_idx"),
    "on_before_optimizer_step": ("optimizer optimizer_idx",),
    "optimizer_step": (
        "epoch batch_idx optimizer optimizer_idx optimizer_closure on_tpu using_native_amp using_lbfgs",
        "epoch batch_idx optimizer optimizer_idx optimizer_closure",
        "epoch batch_idx optimizer optimizer_idx second_order_closure",
        "epoch batch_idx optimizer optimizer_idx",
    ),
    "optimizer_zero_grad": ("epoch batch_idx optimizer optimizer_idx",),
    "backward": ("loss optimizer optimizer_idx", "trainer loss optimizer optimizer_idx"),
    "configure_gradient_clipping": ("optimizer optimizer_idx gradient_clip_val gradient_clip_algorithm",),
    "lr_scheduler_step": ("scheduler optimizer_idx metric",),
    **{f"on_{stage}_epoch_end": ("outputs",) for stage in ("train", "validation", "test", "predict")},
}


def knows(name: str) -> bool:
    """Whether a method of this name was a hook once."""
    return name in KNOWN


def knows_step(name: str, parameters: list[str]) -> bool:
    """Whether training_step asks for the index of an optimizer, or for the hidden state of a cut sequence."""
    return name == "training_step" and any("opt" in more or "hidden" in more for more in parameters[2:])


def is_of_then(trainer: Any) -> bool:
    """Whether the trainer's arguments, or the hooks of its module and callbacks, are of before 2.0."""
    owners = [(trainer.lightning_module, LightningModule), *((callback, Callback) for callback in trainer.callbacks)]
    return bool(devices.SAID) or any(overrides(owner, name, base) for owner, base in owners for name in KNOWN)


# ---- signatures of another day


def adapt(owner: Any, name: str, hook: Call, given: tuple[str, ...]) -> Call | None:
    """The hook as a call with the arguments `given`, or None where it takes them as they are, or none fits."""
    first = 2 if given[:1] == ("trainer",) else 0
    if name in ("setup", "teardown") and _takes(hook, given[:-1], stage=None):
        return MethodType(lambda _, *args: hook(*args[:-1], stage=args[-1]), owner)
    if name == "on_train_batch_end" and not accepts(hook, len(given)):
        hook = uncounted(owner, hook)
    if name == "on_load_checkpoint" and first:
        return _restoring(owner, hook)
    if first and positional(hook)[1:] == ["stage"]:
        return MethodType(lambda _, trainer, pl_module, stage: hook(trainer, stage), owner)
    today = list(given[first:])
    wanted = _wanted(name, hook, first, today)
    if wanted is None or (wanted == today and accepts(hook, len(given))):
        return None
    warn_once(f"{type(owner).__name__}.{name}({', '.join(positional(hook))}) is {name}({', '.join(given)}) today.")
    if first:
        _shorten(type(owner), name)
    if name == "optimizer_step":
        from fulmen.compat.optimizers import adapt_step

        return adapt_step(owner, hook, wanted, lambda hook, wanted: _by_name(owner, name, hook, given, wanted))
    return _by_name(owner, name, hook, given, wanted)


def _takes(hook: Call, arguments: Sequence[Any], **named: Any) -> bool:
    try:
        inspect.signature(hook).bind(*arguments, **named)
    except TypeError:
        return False
    return True


def uncounted(owner: Any, hook: Call) -> Call:
    """A hook of before 1.6, which saw a `global_step` that the batch in hand was not part of."""

    @wraps(hook)
    def call(*args: Any) -> Any:
        trainer = owner.trainer if isinstance(owner, LightningModule) else args[0]
        kind: Any = type(trainer)
        if kind.global_step.fset is None:
            kind.global_step = settable("steps", kind.global_step)
        trainer.__dict__["_uncounted_steps"] = trainer.step.stepping and trainer.__dict__["_release"] < (1, 6)
        try:
            return hook(*args)
        finally:
            del trainer.__dict__["_uncounted_steps"]

    return call


def _shorten(kind: type, name: str) -> None:
    """Let what the hook may call by super() be called with more arguments than it has today."""
    owner = next(one for one in kind.__mro__ if one.__module__.startswith("fulmen.") and name in vars(one))
    function = vars(owner)[name]
    if not hasattr(function, "__wrapped__"):
        taken = len(inspect.signature(function).parameters)
        setattr(owner, name, wraps(function)(lambda *args, **kwargs: function(*args[:taken], **kwargs)))


def _wanted(name: str, hook: Call, first: int, today: list[str]) -> list[str] | None:
    """What the hook's parameters after the `first` are meant for, by their names, else by their number."""
    names = [SPELLED.get(one, one) for one in positional(hook)][first:]
    rows = [row.split() for row in (*SIGNATURES.get(name, ()), "")]
    known = {*today, *SOURCES, *(one for row in rows for one in row)}

    def fits(row: list[str]) -> bool:
        pairs = zip_longest(names, row)  # a known name behind the row belongs to another
        return accepts(hook, first + len(row)) and all(one == meant for one, meant in pairs if one in known)

    if fits(today):
        return None
    leading = next((i for i, one in enumerate(names) if one not in known), len(names))
    if leading and accepts(hook, first + leading):
        return names[:leading]
    return next(filter(fits, rows), None)


def _by_name(owner: Any, name: str, hook: Call, given: tuple[str, ...], wanted: list[str]) -> Call:
    first = 2 if given[:1] == ("trainer",) else 0
    parted = "outputs" in wanted and not said([getattr(inspect.unwrap(hook), "__code__", None)]).isdisjoint(
        ("extra", "minimize")
    )

    def call(_: Any, *arguments: Any, **named: Any) -> Any:
        values = dict(zip(given, arguments, strict=False)) | named
        values.setdefault("trainer", getattr(owner, "trainer", None))
        if parted:
            outputs = values["outputs"] if "outputs" in values else SOURCES["outputs"](name, values)
            values["outputs"] = results.parted(outputs, "outputs" in given)
        extra = (values[one] if one in values else SOURCES[one](name, values) for one in wanted)
        return hook(*arguments[:first], *extra)

    call.wanted = wanted  # type: ignore[attr-defined]
    return MethodType(call, owner)


def _restoring(callback: Any, hook: Call) -> Call | None:
    """on_load_checkpoint as it got the callback's own state, which on_save_checkpoint had returned."""
    names, today = positional(hook), accepts(hook, 3)
    if today and not any("state" in name for name in names[2:3]):
        return None
    warn_once(f"{type(callback).__name__}.on_load_checkpoint({', '.join(names)}) is load_state_dict(state_dict) today.")

    def call(_: Any, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = (checkpoint.get("callbacks") or {}).get(callback.state_key)
        if state is not None:
            hook(*(trainer, pl_module)[: 2 * today], state)

    return MethodType(call, callback)


def optimizer_index(values: dict[str, Any]) -> int:
    """Position among the trainer's of the hook's optimizer, of its scheduler's, or of the one whose turn it is."""
    trainer = values["trainer"]
    scheduler = values.get("scheduler")
    optimizer = values.get("optimizer", trainer.step.optimizer) if scheduler is None else scheduler.optimizer
    bare = getattr(optimizer, "__dict__", {}).get("_optimizer", optimizer)
    return next((i for i, one in enumerate(trainer.optimizers) if one is bare), 0)


# Arguments that hooks no longer get.
SOURCES: dict[str, Call] = {
    "trainer": lambda name, values: values["trainer"],
    "optimizer": lambda name, values: values["trainer"].step.optimizer,
    "optimizer_idx": lambda name, values: optimizer_index(values),
    "dataloader_idx": lambda name, values: 0,
    "outputs": lambda name, values: (
        values["trainer"].__dict__["_outputs"][name.split("_")[1]].gathered(nested="predict" in name)
    ),
    "use_amp": lambda name, values: values["trainer"].precision_plugin.autocasts,
    "using_native_amp": lambda name, values: values["trainer"].precision_plugin.autocasts,
    "using_lbfgs": lambda name, values: isinstance(values["optimizer"], torch.optim.LBFGS),
    "on_tpu": lambda name, values: False,
    "second_order_closure": lambda name, values: None,
}


# ---- names of another day


def complete(calls: dict[str, tuple[Call, ...]], trainer: Any, module: Any, callbacks: Sequence[Any]) -> None:
    """Put into the table what the classes of the module and the callbacks define under older names."""
    trainer.__dict__["_release"] = devices.release(trainer)
    _moments(calls, trainer, module, callbacks)
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        if overrides(trainer.datamodule, name, LightningDataModule):
            warn_once(f"{type(trainer.datamodule).__name__}.{name} is state_dict and load_state_dict today.")
            calls[name] = (*calls[name], getattr(trainer.datamodule, name))
    for name in UNCALLED:
        if overrides(module, name, LightningModule):
            warn_once(f"{type(module).__name__}.{name} is not called any more: the strategy does what it was for.")
    _follow(calls, trainer, module)
    if check_step(module, "training_step") == "more":  # the parameters of the other optimizers have no part in a turn
        getattr(trainer.strategy, "ddp_kwargs", {}).setdefault("find_unused_parameters", True)
    if mentions(module, *LOG_ARGUMENTS):
        from fulmen.compat.bases import take_old_log_arguments

        take_old_log_arguments()
    _fill_bar(module)


def _moments(calls: dict[str, tuple[Call, ...]], trainer: Any, module: Any, callbacks: Sequence[Any]) -> None:
    of_evaluation = EVALUATED if trainer.__dict__["_release"] >= (1, 2) else ()
    for name, (key, side, owners) in (*MOMENTS.items(), *of_evaluation):
        late: list[Call] = []
        early: list[Call] = []
        for owner in (*callbacks, module):
            base = LightningModule if owner is module else Callback
            if base in owners and overrides(owner, name, base):
                # -1 from the module's on_batch_start ends the epoch, which the loop believes of the last hook only
                found = late if side == AFTER or (owner is module and name == "on_batch_start") else early
                found.append(_moment(owner, name, key, () if owner is module else (trainer, module)))
        calls[key] = (*early, *calls[key], *late)


def _follow(calls: dict[str, tuple[Call, ...]], trainer: Any, module: Any) -> None:
    """What steps and epoch ends return goes where it went; for the length of the run."""
    followed = _follow_steps(module)
    if _epoch_ends(calls, trainer, module) or followed:
        followed |= {"configure_optimizers": (results.then_monitored,)}
        calls["on_train_start"] += (partial(results.wait_for_validation, trainer),)
    undo = tuple(results.follow(module, name, after) for name, after in followed.items())
    calls["module_teardown"] += undo
    calls["on_exception"] += undo


def _moment(owner: Any, name: str, key: str, before: tuple[Any, ...]) -> Call:
    """The old hook as a call with the arguments of today's `key`, of which it gets as many as it takes."""
    hook, only = getattr(owner, name), ONLY.get(name)
    hook = uncounted(owner, hook) if name == "on_batch_end" else hook
    most = len((SHARED | CALLBACK_ONLY).get(key, ("stage",) * key.endswith("setup")))
    count = next((n for n in range(len(before) + most, -1, -1) if accepts(hook, n)), 0)
    today = "callbacks' and on_fit_start" if key == "module_setup" else key
    warn_once(f"{type(owner).__name__}.{name} is {today} today.")

    def call(_: Any, *arguments: Any) -> Any:
        if only is None or only(arguments[-1]):
            return hook(*(*before, *arguments)[:count])
        return None

    return MethodType(call, owner) if name == "on_batch_start" else partial(call, owner)


def _follow_steps(module: Any) -> dict[str, tuple[Call, ...]]:
    """What the output of each step goes through."""
    found: dict[str, tuple[Call, ...]] = {}
    for name, step in STEP_ENDS.items():
        if overrides(module, name, LightningModule):
            warn_once(f"{type(module).__name__}.{name} is part of {step} today.")
            found[step] = (*found.get(step, ()), getattr(module, name))
    if mentions(module, "EvalResult", "TrainResult"):
        for step in STEPS[:3]:
            found[step] = (*found.get(step, ()), partial(results.flush, module))
    return {step: after for step, after in found.items() if overrides(module, step, LightningModule)}


def _epoch_ends(calls: dict[str, tuple[Call, ...]], trainer: Any, module: Any) -> bool:
    """Gather the outputs of the stages whose end has a hook that wants them."""
    ends: dict[str, str] = {}
    for name, stage in ENDS.items():
        if overrides(module, name, LightningModule):
            ends.setdefault(stage, name)
    trainer.__dict__["_outputs"] = gathered = {}
    for stage in set(ENDS.values()):
        start, batch, end = (f"on_{stage}_{when}" for when in ("epoch_start", "batch_end", "epoch_end"))
        places = (end, "checks_train_epoch_end", LATE[end]) if end in LATE else (end,)  # some run behind
        asking = [place for place in places if any("outputs" in asked_for(hook) for hook in calls[place])]
        if stage not in ends and not asking:
            continue
        outputs = gathered[stage] = results.Outputs(trainer, stage)
        calls[start] = (outputs.clear, *calls[start])
        calls[batch] = (outputs.add, *calls[batch])
        last = [end, *asking][-1]
        calls[last] = (*calls[last], outputs.clear)
        if stage == "train":
            calls["on_save_checkpoint"] += (outputs.save,)
            calls["on_load_checkpoint"] += (outputs.load,)
        if stage in ends:
            warn_once(
                f"{type(module).__name__}.{ends[stage]}(outputs) is on_{stage}_epoch_end() today, which uses self.log "
                "and lists that the steps fill."
            )
            calls[end] = (partial(results.end_epoch, module, getattr(module, ends[stage]), outputs), *calls[end])
    return bool(ends)


def asked_for(hook: Any) -> Sequence[str]:
    """Names of the arguments that an adapted hook gets, () for others."""
    bound = getattr(hook, "func", hook)
    return getattr(getattr(bound, "__func__", bound), "wanted", ())


def mentions(module: Any, *names: str) -> bool:
    """Whether the code of the module's class has any of these, as a name or as the keyword of a call."""
    classes = [c for c in type(module).__mro__ if c not in LightningModule.__mro__]
    codes = [v.__code__ for c in classes for v in vars(c).values() if inspect.isfunction(v)]
    return not said(codes).isdisjoint(names)


def said(codes: Sequence[Any]) -> set[Any]:
    """The names and constants of some code and what is defined in it, the keywords of its calls among them."""
    parts = [part for code in codes if code for part in (code.co_names, code.co_consts, *code.co_consts)]
    inner = [part for part in parts if inspect.iscode(part)]
    return {one for part in parts if type(part) is tuple for one in part} | (said(inner) if inner else set())


def _fill_bar(module: Any) -> None:
    """get_progress_bar_dict, get_tqdm_dict: the module says what the bar shows beside its metrics."""
    if names := _bar_hooks(module):
        warn_once(f"{type(module).__name__}.{names[-1]} is get_metrics of a ProgressBar callback today.")
        ProgressBar.get_metrics = _shown  # type: ignore[method-assign]


def _bar_hooks(module: Any) -> list[str]:
    return [n for n in ("get_tqdm_dict", "get_progress_bar_dict") if overrides(module, n, LightningModule)]


_shown_today = ProgressBar.get_metrics


def _shown(bar: ProgressBar, trainer: Any, pl_module: Any) -> dict[str, Any]:
    names = _bar_hooks(pl_module)
    own = getattr(pl_module, names[-1])() if names else _shown_today(bar, trainer, pl_module)
    return {**own, **trainer.progress_bar_metrics}


# ---- outside of the table


def constructed(trainer: Any, callback: Any) -> None:
    """A Trainer was made: on_init_start and on_init_end of its callbacks."""
    for name in CONSTRUCTED:
        if overrides(callback, name, Callback):
            warn_once(f"{type(callback).__name__}.{name} is setup today.")
            getattr(callback, name)(trainer)


def find_loader(source: Any, module: Any) -> None:
    """tng_dataloader, where there is no train_dataloader."""
    if overrides(module, "tng_dataloader", LightningModule):
        warn_once(f"{type(module).__name__}.tng_dataloader is train_dataloader today.")
        source.owner, source.hook = module, "tng_dataloader"


def keep_state(checkpoint: dict[str, Any], hook: Any, returned: Any) -> None:
    """What a callback's on_save_checkpoint returned is its state."""
    callback = getattr(getattr(hook, "func", hook), "__self__", None)
    if isinstance(callback, Callback) and returned is not checkpoint:
        states = checkpoint.setdefault("callbacks", {})
        known = states.get(callback.state_key)
        states[callback.state_key] = {**known, **returned} if known else returned
