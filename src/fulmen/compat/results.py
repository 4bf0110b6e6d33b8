"""What steps and epoch ends returned: dicts with "log" and "progress_bar", `TrainResult` and `EvalResult`.

Everything goes the way of `self.log`. A name that the module also logs itself is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fulmen.callbacks import EarlyStopping, ModelCheckpoint
from fulmen.compat import devices
from fulmen.tree import detach
from fulmen.warn import warn_once

KEYS = ("log", "progress_bar")


def report(module: Any, returned: Mapping[str, Any]) -> None:
    """Log what a training step or an epoch's end returned.

    "log" is for the loggers and "progress_bar" for the bar; these and all other single values can be monitored.
    """
    shown, logged = (part if isinstance(part := returned.get(key), Mapping) else {} for key in reversed(KEYS))
    for name, value in {**returned, **shown, **logged}.items():
        if name not in KEYS and _is_single(value):
            _log(module, name, value, name in shown, name in logged)
    if shown or logged:
        warn_once("Values returned under 'log' and 'progress_bar' are self.log(name, value, prog_bar=...) today.")


def _is_single(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Number)


def _log(module: Any, name: str, value: Any, prog_bar: bool, logger: bool) -> None:
    known = module._logs.slots.get(name) if module._logs is not None else None
    if known is None or known.rule == (prog_bar, logger, None, None, "mean", False, True, False, None, False):
        module.log(name, value, prog_bar, logger)


# ---- the outputs of an epoch


class Outputs:
    """What the steps of a stage returned in the epoch that runs."""

    def __init__(self, trainer: Any, stage: str) -> None:
        self.trainer, self.stage = trainer, stage
        self.add: Callable[..., None] = self.add_training if stage == "train" else self.add_evaluation
        self.kept: dict[int, list[Any]] = {}
        self.restored: dict[int, list[Any]] = {}
        self.kind: type[dict[str, Any]] = dict
        self.whole = devices.release(trainer) < (1, 5)

    def clear(self) -> None:
        self.kept, self.restored = self.restored, {}

    def save(self, checkpoint: dict[str, Any]) -> None:
        """With the checkpoint of an open epoch, where they are plain data."""
        own = self.kept if all(_is_plain(one) for kept in self.kept.values() for one in kept) else {}
        strategy = self.trainer.strategy
        every = [own] if strategy.world_size == 1 else strategy.gather_object(own)
        if every and any(every):
            checkpoint["fulmen"]["outputs"] = every

    def load(self, checkpoint: dict[str, Any]) -> None:
        every = checkpoint["fulmen"].get("outputs", ())
        self.restored = every[self.trainer.global_rank] if len(every) == self.trainer.world_size else {}

    def add_evaluation(self, output: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        if output is not None:
            self.kept.setdefault(dataloader_idx, []).append(output)

    def add_training(self, output: Any, batch: Any, batch_idx: int) -> None:
        """A training step's output; until 1.5 with the whole loss, where hooks see the part that was differentiated."""
        step = self.trainer.step
        several = getattr(step, "ran", None)
        cut = getattr(step, "split_size", None)
        parts: dict[int, list[Any]] = {}
        for idx, one in [(0, output)] if several is None else several:
            if one:
                whole = {"loss": one["loss"] * step.accumulate} if self.whole and "loss" in one else {}
                kept = self.kind()
                kept.update(detach({**one, **whole}))
                parts.setdefault(0 if several is not None and step.ends else idx, []).append(kept)
        for idx, ones in parts.items():  # of a sequence that was cut, a list for each batch
            self.kept.setdefault(idx, []).extend([ones] if cut else ones)

    def gathered(self, nested: bool = False) -> Any:
        """A list; with several loaders, or several optimizers, a list for each (with `nested`, for one too).

        From 1.6 on, it was a list for each batch, of the outputs of each optimizer.
        """
        lists = [self.kept.get(idx, []) for idx in range(self._count())]
        step = self.trainer.__dict__.get("step")
        if self.stage == "train" and len(self.trainer.optimizers) > 1 and getattr(step, "each_counts", False):
            return [list(ones) for ones in zip(*lists, strict=False)]
        return lists if nested or len(lists) != 1 else lists[0]

    def _count(self) -> int:
        if self.stage == "train":
            step = self.trainer.step  # optimizers with frequencies have one list, in the batches' order
            return max(1, len(self.trainer.optimizers)) if hasattr(step, "ran") and not step.ends else 1
        loop = self.trainer.prediction if self.stage == "predict" else self.trainer.evaluation
        return len(loop.counts)


class Parted(dict[str, Any]):
    """An output whose items are attributes."""

    __getattr__ = dict.__getitem__


def parted(outputs: Any, of_batch: bool) -> list[Any]:
    """Outputs as hooks got them until 1.2: by optimizer, batch and part of it, what came with the loss as "extra"."""
    ones = outputs if isinstance(outputs, list) else [outputs]
    if not of_batch:
        return [parted(batches, True) for batches in (ones if ones and isinstance(ones[0], list) else [ones])]
    return [[Parted(one, minimize=one["loss"], extra={k: v for k, v in one.items() if k != "loss"})] for one in ones]


def _is_plain(output: Any) -> bool:
    if isinstance(output, list):
        return all(_is_plain(part) for part in output)
    return type(output) is dict and all(
        isinstance(one, (Tensor, str, int, float)) or one is None for one in output.values()
    )


def end_epoch(module: Any, hook: Callable[[Any], Any], outputs: Outputs) -> None:
    """Call the hook with the epoch's outputs and log what it returns."""
    gathered = outputs.gathered()
    if isinstance(gathered, list) and gathered and all(isinstance(one, Result) for one in gathered):
        gathered = merged(gathered)
    returned = hook(gathered)
    if isinstance(returned, Result):
        flush(module, returned)
    elif isinstance(returned, Mapping):
        report(module, returned)
        if outputs.stage == "validation" and "val_loss" in returned:  # what callbacks watched when this was returned
            watch(module, "val_loss", ModelCheckpoint)


# ---- what a function of the module returns goes on to others


class Followed:
    """A module's function with others behind it, in the module's place of it for the length of a run.

    Where one step calls another, only what follows the outer one runs.
    """

    inside = False

    def __init__(self, function: Callable[..., Any], after: tuple[Callable[[Any], Any], ...], own: Any) -> None:
        self.__wrapped__ = function  # what signatures are read from
        self.after = after
        self.own = own  # what stood in its place on the module itself, None if nothing did

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if Followed.inside:
            return self.__wrapped__(*args, **kwargs)
        Followed.inside = True
        try:
            output = self.__wrapped__(*args, **kwargs)
        finally:
            Followed.inside = False
        for function in self.after:
            output = function(output)
        return output


def follow(module: Any, name: str, after: tuple[Callable[[Any], Any], ...]) -> Callable[..., None]:
    """Put `after` behind `module.<name>`; returns what undoes it."""
    own = module.__dict__.get(name)
    if not isinstance(own, Followed):  # it is there already when the table is built again
        module.__dict__[name] = Followed(getattr(module, name), after, own)

    def undo(*_: Any) -> None:
        followed = module.__dict__.pop(name, None)  # None: the run ended in an exception, and this was called before
        if followed is not None and followed.own is not None:
            module.__dict__[name] = followed.own

    return undo


def then_monitored(returned: Any) -> Any:
    """configure_optimizers' schedulers: a plateau scheduler watched "val_loss" if nothing was said."""
    if not isinstance(returned, (list, tuple)) or len(returned) != 2 or not isinstance(returned[1], (list, tuple)):
        return returned
    schedulers = []
    for one in returned[1]:
        config = {k: v for k, v in one.items() if k != "opt_idx"} if isinstance(one, dict) else {"scheduler": one}
        if isinstance(config.get("scheduler"), ReduceLROnPlateau):
            config.setdefault("monitor", "val_loss")
        schedulers.append(config)
    return returned[0], schedulers


def wait_for_validation(trainer: Any) -> None:
    """Where not every epoch has a validation, plateau schedulers did nothing until the first."""
    for config in trainer.lr_scheduler_configs:
        config.strict &= trainer.check_val_every_n_epoch == 1


# ---- results as objects


class Result(dict[str, Any]):
    """A dict whose items are attributes too, with values to be logged when it is returned from a step or epoch end."""

    on_step, on_epoch = False, True

    def __init__(self, minimize: Tensor | None = None, early_stop_on: Any = None, checkpoint_on: Any = None) -> None:
        super().__init__() if minimize is None else super().__init__(loss=minimize)
        self.__dict__["logs"] = {}
        for name, value in (("early_stop_on", early_stop_on), ("checkpoint_on", checkpoint_on)):
            if value is not None:
                self[name] = value = minimize if value is True else value
                self.log(name, value, logger=False, on_step=False, on_epoch=True)

    def __getattr__(self, name: str) -> Any:
        name = "loss" if name == "minimize" else name
        if name not in self:
            raise AttributeError(f"{type(self).__name__} has no value {name!r}, only {', '.join(self)}.")
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self["loss" if name == "minimize" else name] = value

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool = True,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        *_: Any,
        sync_dist: bool = False,
        **__: Any,
    ) -> None:
        """Log `value`; both by step and by epoch it gets the names `step_<name>` and `epoch_<name>`."""
        on_step = self.on_step if on_step is None else on_step
        on_epoch = self.on_epoch if on_epoch is None else on_epoch
        self[name] = value
        both = on_step and on_epoch
        for wanted, how in ((on_step, {"on_step": True}), (on_epoch, {"on_epoch": True})):
            if wanted:
                full = f"{next(iter(how))[3:]}_{name}" if both else name
                options = {"prog_bar": prog_bar, "logger": logger, "reduce_fx": reduce_fx, "sync_dist": sync_dist}
                self.logs[full] = (name, options | {"on_step": False, "on_epoch": False} | how)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self.log(name, value, *args, **kwargs)

    def rename_keys(self, map_dict: Mapping[str, str]) -> None:
        """Give values other names, for a step that goes on with the result of another."""
        for old, new in map_dict.items():
            self[new] = self.pop(old)
            logs = {k.replace(old, new): (new if n == old else n, how) for k, (n, how) in self.logs.items()}
            self.__dict__["logs"] = logs


class TrainResult(Result):
    """What a training step returned: the loss to `minimize`, and values to log, by step unless said otherwise."""

    on_step, on_epoch = True, False


class EvalResult(Result):
    """What a validation or test step returned: values to log, by epoch unless said otherwise."""

    def __init__(self, early_stop_on: Any = None, checkpoint_on: Any = None, hiddens: Any = None) -> None:
        super().__init__(None, early_stop_on, checkpoint_on)


def flush(module: Any, result: Any) -> Any:
    """Log the values of a result, and let the callbacks that had nothing else to watch watch what it says."""
    if not isinstance(result, Result):
        return result
    warn_once(f"{type(result).__name__}.log(...) is self.log(...) today; a step returns its loss.")
    per_batch = module._logs.phase.per_batch
    for full, (name, how) in result.logs.items():
        options = how if per_batch else how | {"on_step": False, "on_epoch": True}
        module.log(full, result[name], **options)
    result.logs.clear()
    if isinstance(result, TrainResult) and "train" in module.trainer.__dict__["_outputs"]:
        module.trainer.__dict__["_outputs"]["train"].kind = TrainResult
    loaders = 1 if module.trainer.training else len(module.trainer.evaluation.counts)
    last = f"/dataloader_idx_{loaders - 1}" if loaders > 1 else ""  # of several loaders, the last one's value counted
    if "checkpoint_on" in result:
        watch(module, f"checkpoint_on{last}", ModelCheckpoint, (None, "val_loss"))
    if "early_stop_on" in result:
        watch(module, f"early_stop_on{last}", EarlyStopping, (None, "val_loss"))
    return result


def watch(module: Any, name: str, kind: type[Any], unsaid: tuple[str | None, ...] = (None,)) -> None:
    """Let the callbacks of a kind that were told nothing else watch this value."""
    for callback in module.trainer.callbacks:
        if isinstance(callback, kind) and callback.monitor in unsaid:
            callback.monitor = name


def merged(results: list[Result]) -> Result:
    """One result with the values of all: tensors stacked, or joined where they have a first dimension."""
    whole = type(results[0])()
    for name in results[0]:
        values = [one[name] for one in results if name in one]
        if all(isinstance(value, Tensor) for value in values):
            whole[name] = torch.stack(values) if values[0].dim() == 0 else torch.cat(values)
        else:
            whole[name] = values
    return whole
