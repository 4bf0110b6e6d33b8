"""What arguments of older Trainers did, each as the callback that does it today."""

from __future__ import annotations

import os
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fulmen.callbacks import Callback
from fulmen.checkpoint import find
from fulmen.combined import CombinedLoader
from fulmen.parameters import grad_norm
from fulmen.warn import warn_once


class Resume(Callback):
    """resume_from_checkpoint: fit goes on from it, once; a test or validation before that takes its weights."""

    def __init__(self, path: Any) -> None:
        self.path = path
        self.used = False
        find.resolve = _resolve

    def of_run(self, trainer: Any) -> Any:
        """The path for this run of the trainer, None if it is not meant for it."""
        if self.used or trainer.state.fn == "predict":
            return None
        self.used = trainer.state.fn == "fit"
        return self.path


_resolve_today = find.resolve


def _resolve(trainer: Any, ckpt_path: Any) -> Any:
    """Which file `ckpt_path` means, where a trainer may have been told at its making; what fit is told goes first."""
    path = _resolve_today(trainer, ckpt_path)
    resumes = [callback for callback in trainer.callbacks if isinstance(callback, Resume)]
    return resumes[0].of_run(trainer) if path is ckpt_path is None and resumes else path


class Begin(Callback):
    """`trainer.current_epoch = 3`, `trainer.global_step = 100`: the next fit begins there, or a running one goes on."""

    def __init__(self, counter: str, value: int) -> None:
        self.counter, self.value = counter, value

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        setattr(trainer.progress, self.counter, self.value)
        trainer.callbacks.remove(self)


def _set_counter(counter: str, trainer: Any, value: int) -> None:
    warn_once("trainer.current_epoch and trainer.global_step are kept by the trainer and checkpoints today.")
    if not trainer.training:
        trainer.progress = copy(trainer.progress)  # a new trainer's is that of all new trainers
        trainer.callbacks.append(Begin(counter, value))
    setattr(trainer.progress, counter, value)


def settable(counter: str, today: Any) -> property:
    """A counter of the trainer that may be assigned to."""

    def read(trainer: Any) -> int:
        return today.fget(trainer) - trainer.__dict__.get(f"_uncounted_{counter}", 0)

    return property(read, partial(_set_counter, counter))


def set_limit(name: str, trainer: Any, value: Any) -> None:
    """A limit is the loop's, to which another fit goes on; before there is one, it is the Trainer's argument."""
    if trainer.train_loop is not None:
        setattr(trainer.train_loop, name, value)
    else:
        trainer.options = replace(trainer.options, **{name: value})


class Planned:
    """trainer.fit_loop and what is below it before the first fit: limits and counters are the trainer's."""

    def __init__(self, trainer: Any) -> None:
        vars(self)["trainer"] = trainer

    def __getattr__(self, name: str) -> Any:
        if name in ("epoch_loop", "val_loop", "epoch_progress", "current"):
            return self
        return getattr(self.trainer, "current_epoch" if name in ("processed", "completed") else name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("max_epochs", "min_epochs", "max_steps", "min_steps"):
            set_limit(name, self.trainer, value)
        elif name in ("processed", "completed", "current_epoch"):
            _set_counter("epoch", self.trainer, value)
        else:
            vars(self)[name] = value  # what a fit makes anew


class TrackGradNorm(Callback):
    """track_grad_norm: logs the norms of the gradients before each step."""

    def __init__(self, norm_type: float | str) -> None:
        self.norm_type = norm_type

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        norms = grad_norm(pl_module, self.norm_type)
        log = getattr(type(pl_module), "log_grad_norm", None)  # the module may say how
        log(pl_module, norms) if log else self.log_dict(norms, on_step=True, on_epoch=True)


class FlushLogs(Callback):
    """flush_logs_every_n_steps, log_save_interval: loggers write to disk every n steps."""

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            for logger in trainer.loggers:
                logger.save()


class RowInterval(Callback):
    """row_log_interval: rows for every n-th batch of an epoch, until 0.9 from its first on."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        count = batch_idx + (trainer.datamodule is not None or trainer.__dict__["_release"] >= (0, 9))
        if trainer.accumulate_grad_batches == 1:  # else by steps, as today: these batches may be without one
            trainer.train_loop.row_every = 1 if count % self.every == 0 else 2**62


class GpuMemory(Callback):
    """log_gpu_memory: MB in use on each GPU ("all"), or the least and the most ("min_max"), for the loggers."""

    def __init__(self, which: str | bool) -> None:
        self.which = which

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.should_log_step or trainer.strategy.root_device.type != "cuda":
            return
        free_and_total = [torch.cuda.mem_get_info(index) for index in trainer.device_ids]
        used = [(total - free) / 2**20 for free, total in free_and_total]
        metrics = {"min_gpu_mem": min(used), "max_gpu_mem": max(used)}
        if self.which != "min_max":
            metrics = {f"gpu_id: {i}/memory.used (MB)": mb for i, mb in zip(trainer.device_ids, used, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)


class WeightsFolder(Callback):
    """weights_save_path: the folder under which checkpoints, and only they, are kept."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        parts: list[str] = []
        if trainer.logger is not None:
            version = trainer.logger.version
            parts = [str(trainer.logger.name), version if isinstance(version, str) else f"version_{version}"]
        for callback in trainer.checkpoint_callbacks:
            if getattr(callback, "dirpath", "") is None:
                callback.dirpath = os.path.abspath(os.path.join(self.path, *parts, "checkpoints"))


class LoaderMode(Callback):
    """multiple_trainloader_mode="min_size": several training loaders end with the shortest."""

    def __init__(self, mode: Any) -> None:
        self.mode = mode

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        source = trainer.sources.get("train")
        if source is None:
            return
        if source.owner is None:
            source.given = self.combined(source.given)
        else:
            owner, hook = source.owner, getattr(source.owner, source.hook)
            owner.__dict__[source.hook] = lambda: self.combined(hook())

    def combined(self, loaders: Any) -> Any:
        return CombinedLoader(loaders, self.mode) if isinstance(loaders, (dict, list, tuple)) else loaders


class OfTheModule(Callback):
    """An argument that is an attribute of the module today."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}.{self.name}"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        setattr(pl_module, self.name, self.value)
