"""Old attributes of the Trainer and of modules, reached only where today's have none of the name."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

from fulmen.checkpoint.state import gather
from fulmen.compat.callbacks import Planned
from fulmen.errors import nearest
from fulmen.parameters import grad_norm
from fulmen.strategy import DDPStrategy
from fulmen.summary import summarize
from fulmen.warn import warn_once


class NoAttribute(AttributeError):
    """Its text, with the nearest name, is made when it is read: mostly it is only hasattr() that asks."""

    def __init__(self, kind: str, missing: str, known: list[str]) -> None:
        super().__init__(kind, missing, [name for name in known if name[:1] != "_"])

    def __str__(self) -> str:
        kind, missing, known = self.args
        return f"{kind!r} object has no attribute {missing!r}.{nearest(missing, known)}"


def trainer_attribute(trainer: Any, name: str) -> Any:
    """What `trainer.<name>` was; an AttributeError with the nearest name where there was no such thing."""
    if name in LOOPS:
        return LOOPS[name](trainer)
    return _old(trainer, name, TRAINER, "trainer", "Trainer")


def module_attribute(module: Any, name: str) -> Any:
    """What `module.<name>` was; an AttributeError with the nearest name where there was no such thing."""
    return _old(module, name, MODULE, "self", type(module).__name__)


def loop_attribute(loop: Any, name: str) -> Any:
    """What `trainer.fit_loop.<name>`, or that of its epoch_loop, was."""
    return _old(loop, name, LOOP, "trainer.fit_loop", "the training loop")


def _old(owner: Any, name: str, table: dict[str, tuple[str, Callable[[Any], Any]]], spoken: str, kind: str) -> Any:
    if name not in table:
        raise NoAttribute(kind, name, dir(type(owner)))
    today, read = table[name]
    try:
        value = read(owner)
    except RuntimeError as error:  # there is no trainer; hasattr() is to be False then, not to fail
        raise AttributeError(str(error)) from error
    warn_once(f"{spoken}.{name} is {today} today.")
    return value


LOOPS: dict[str, Callable[[Any], Any]] = {
    "fit_loop": Planned,
    "validate_loop": lambda trainer: trainer.evaluation,
    "test_loop": lambda trainer: trainer.evaluation,
    "predict_loop": lambda trainer: trainer.prediction,
}


# ---- the tables: what it is called today, and how to read it


def _has_gpus(trainer: Any) -> bool:
    return trainer.strategy.root_device.type == "cuda"


def _load_training_data(trainer: Any) -> Callable[..., None]:
    return lambda model=None: trainer.train_loop.load_data()


def _due(part: str) -> tuple[str, Callable[[Any], NoReturn]]:
    def read(owner: Any) -> NoReturn:
        raise AttributeError(f"{part} is not part of Fulmen yet and will come with a later release than 0.1.")

    return "due later", read


def _checkpoints(trainer: Any) -> SimpleNamespace:
    return SimpleNamespace(
        dump_checkpoint=lambda weights_only=False: gather(trainer, bool(weights_only)),
        save_checkpoint=trainer.save_checkpoint,
        resume_checkpoint_path=trainer.ckpt_path,
    )


def _data(trainer: Any) -> SimpleNamespace:
    """The trainer's connector for data, of which programs asked the loader of training, before it was made."""

    def source(stage: str) -> SimpleNamespace:
        one = trainer.sources.get(stage)
        made = (lambda: getattr(one.owner, one.hook)() if one.given is None else one.given) if one else lambda: None
        return SimpleNamespace(dataloader=made, instance=one and one.owner)

    stages = {f"_{stage}_dataloader_source": source(stage) for stage in ("train", "val", "test", "predict")}
    hooks = SimpleNamespace(datamodule=trainer.datamodule, model=trainer.lightning_module)
    return SimpleNamespace(**stages, _datahook_selector=hooks, trainer=trainer, datamodule=trainer.datamodule)


def loss_shown(trainer: Any) -> dict[str, str]:
    """The last loss as bars wrote it, from the start of training on."""
    step = trainer.__dict__.get("step")
    loss = (getattr(step, "output", None) or {}).get("loss", float("nan"))
    return {} if step is None else {"loss": f"{float(loss) * step.accumulate:.3g}"}


def beside_metrics(trainer: Any) -> dict[str, Any]:
    """What bars showed beside the metrics."""
    version = trainer.logger and trainer.logger.version
    return loss_shown(trainer) | ({} if version is None else {"v_num": version})


def _written(callback: str) -> Callable[[Any], Any]:
    return lambda trainer: any(type(one).__name__ == callback for one in trainer.callbacks)


def _schedulers(trainer: Any) -> list[dict[str, Any]]:
    return [dict(vars(config)) for config in trainer.lr_scheduler_configs]


NO_PROFILER = SimpleNamespace(profile=lambda name: nullcontext(), start=lambda name: None, stop=lambda name: None)

GONE = dict.fromkeys(("use_dp", "use_ddp2", "use_tpu", "use_horovod", "on_tpu", "tuning"), ("gone", lambda _: False))

TRAINER: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **GONE,
    **dict.fromkeys(("tpu_cores", "ipus"), ("gone", lambda t: None)),
    **dict.fromkeys(("tuner", "lr_find", "scale_batch_size"), _due("The tuner")),
    "profiler": ("not there yet", lambda t: NO_PROFILER),
    **dict.fromkeys(("checkpoint_connector", "_checkpoint_connector"), ("trainer.save_checkpoint", _checkpoints)),
    **dict.fromkeys(
        ("tested_ckpt_path", "validated_ckpt_path", "predicted_ckpt_path"), ("trainer.ckpt_path", lambda t: t.ckpt_path)
    ),
    **dict.fromkeys(("data_connector", "_data_connector"), ("trainer.datamodule, trainer.train_dataloader", _data)),
    "get_model": ("trainer.lightning_module", lambda t: lambda: t.lightning_module),
    "lr_schedulers": ("trainer.lr_scheduler_configs", _schedulers),
    "optimizer_frequencies": ("gone", lambda t: []),
    "training_type_plugin": ("trainer.strategy", lambda t: t.strategy),
    "accelerator_backend": ("trainer.strategy", lambda t: t.strategy),
    **dict.fromkeys(
        ("accelerator_connector", "_accelerator_connector", "logger_connector", "_logger_connector"),
        ("the trainer itself", lambda t: t),
    ),
    "is_distributed": ("trainer.world_size > 1", lambda t: t.world_size > 1),
    "num_gpus": ("trainer.num_devices", lambda t: t.num_devices if _has_gpus(t) else 0),
    "gpus": ("trainer.device_ids", lambda t: t.device_ids if _has_gpus(t) else None),
    "data_parallel_device_ids": ("trainer.device_ids", lambda t: t.device_ids if _has_gpus(t) else None),
    "root_gpu": ("trainer.strategy.root_device", lambda t: t.strategy.root_device.index if _has_gpus(t) else None),
    "devices": ("trainer.num_devices", lambda t: t.num_devices),
    "num_processes": ("trainer.num_devices", lambda t: t.num_devices),
    "on_gpu": ("trainer.strategy.root_device", _has_gpus),
    "on_cpu": ("trainer.strategy.root_device", lambda t: t.strategy.root_device.type == "cpu"),
    "data_parallel": ("trainer.world_size > 1", lambda t: t.world_size > 1),
    "use_ddp": ("trainer.strategy", lambda t: isinstance(t.strategy, DDPStrategy)),
    "use_amp": ("trainer.precision", lambda t: t.precision_plugin.autocasts),
    "amp_backend": ("trainer.precision", lambda t: "native" if t.precision_plugin.autocasts else None),
    "proc_rank": ("trainer.global_rank", lambda t: t.global_rank),
    "max_nb_epochs": ("trainer.max_epochs", lambda t: t.max_epochs),
    "min_nb_epochs": ("trainer.min_epochs", lambda t: t.min_epochs),
    "nb_gpu_nodes": ("trainer.num_nodes", lambda t: t.num_nodes),
    **dict.fromkeys(("batch_idx", "batch_nb"), ("trainer.fit_loop.batch_idx", lambda t: t.train_loop.batch_idx)),
    "total_batch_idx": ("trainer.progress.batches - 1", lambda t: _batches(t.train_loop).total.ready - 1),
    "running_sanity_check": ("trainer.sanity_checking", lambda t: t.sanity_checking),
    "disable_validation": ("not trainer.enable_validation", lambda t: not t.enable_validation),
    "progress_bar_dict": ("trainer.progress_bar_metrics", lambda t: beside_metrics(t) | t.progress_bar_metrics),
    "tng_tqdm_dic": ("trainer.progress_bar_metrics", lambda t: dict(t.progress_bar_metrics)),
    "slurm_job_id": ("os.environ['SLURM_JOB_ID']", lambda t: int(os.environ.get("SLURM_JOB_ID", 0)) or None),
    "terminate_on_nan": ("Trainer(nonfinite='stop')", lambda t: t.options.nonfinite in (None, "stop")),
    "track_grad_norm": ("fulmen.parameters.grad_norm", _written("TrackGradNorm")),
    "weights_summary": ("ModelSummary(max_depth)", lambda t: "top" if _written("ModelSummary")(t) else None),
    "weights_save_path": ("trainer.default_root_dir", lambda t: t.default_root_dir),
    "resume_from_checkpoint": (
        "trainer.ckpt_path",
        lambda t: next((c.path for c in t.callbacks if hasattr(c, "of_run")), None),
    ),
    "should_rank_save_checkpoint": ("trainer.is_global_zero", lambda t: t.is_global_zero),
    "reset_train_dataloader": ("trainer.estimated_stepping_batches", _load_training_data),
    "reset_train_val_dataloaders": ("trainer.estimated_stepping_batches", _load_training_data),
    "reset_val_dataloader": ("trainer.num_val_batches", lambda t: lambda model=None: t.evaluation.load_data()),
    "reset_test_dataloader": ("trainer.num_test_batches", lambda t: lambda model=None: t.evaluation.load_data()),
    "call_hook": ("gone", lambda t: lambda name, *arguments: [hook(*arguments) for hook in getattr(t.hooks, name)]),
    "tune": ("not needed", lambda t: lambda *_, **__: {}),  # auto_lr_find and the like are refused by the constructor
}

MODULE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **GONE,
    **dict.fromkeys(("write_prediction", "write_prediction_dict"), _due("Writing of predictions")),
    "manual_optimizer_step": ("optimizer.step() and optimizer.zero_grad()", lambda m: _step_and_clear),
    "datamodule": ("self.trainer.datamodule", lambda m: m.trainer.datamodule),
    "use_ddp": ("self.trainer.strategy", lambda m: isinstance(m.trainer.strategy, DDPStrategy)),
    "use_amp": ("self.trainer.precision", lambda m: m.trainer.precision_plugin.autocasts),
    "precision": ("self.trainer.precision", lambda m: m.trainer.precision),
    "summarize": ("fulmen.summary.summarize(self)", lambda m: partial(_summary, m)),
    "model_size": ("fulmen.summary.summarize(self).model_size", lambda m: summarize(m).model_size),
    "grad_norm": ("fulmen.parameters.grad_norm", lambda m: lambda norm_type: grad_norm(m, norm_type)),
    **dict.fromkeys(
        ("get_progress_bar_dict", "get_tqdm_dict"),
        ("self.trainer.progress_bar_metrics", lambda m: lambda: dict(m.trainer.progress_bar_metrics)),
    ),
}


def _counts(current: dict[str, int], total: dict[str, int], **more: Any) -> SimpleNamespace:
    """Counters as they stood in a loop: ready, started, processed, completed; since its start and in all."""
    return SimpleNamespace(current=SimpleNamespace(**current), total=SimpleNamespace(**total), **more)


def _four(completed: int, ready: int) -> dict[str, int]:
    return {"ready": ready, "started": ready, "processed": completed, "completed": completed}


def _batches(loop: Any) -> SimpleNamespace:
    progress, before = loop.progress, loop.batch_idx == loop.progress.batch  # before: the batch in hand is not done
    counts = [_four(count, count + before) for count in (progress.batch, progress.batches)]
    return _counts(*counts, is_last_batch=loop.trainer.is_last_batch)


def _epochs(loop: Any) -> SimpleNamespace:
    epoch = loop.progress.epoch
    counts = _four(epoch, epoch + (loop.progress.batch > 0 or not loop.finished()))
    return _counts(counts, counts)


LOOP: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "global_step": ("trainer.global_step", lambda loop: loop.progress.steps),
    "current_epoch": ("trainer.current_epoch", lambda loop: loop.progress.epoch),
    "total_batch_idx": ("trainer.progress.batches - 1", lambda loop: _batches(loop).total.ready - 1),
    "_batches_that_stepped": ("trainer.progress.stepped", lambda loop: loop.progress.stepped),
    "batch_progress": ("trainer.progress", _batches),
    "epoch_progress": ("trainer.progress", _epochs),
    "restarting": ("gone", lambda loop: loop.resume is not None),
    "done": ("gone", lambda loop: loop.finished()),
    "val_loop": ("trainer.validate_loop", lambda loop: loop.validation),
    "setup_data": ("trainer.estimated_stepping_batches", lambda loop: loop.load_data),
    "_combined_loader": ("trainer.train_dataloader", lambda loop: loop.fetch and loop.fetch.loader),
    "_should_accumulate": ("gone", lambda loop: lambda: not loop.step.stepping),
}


def _step_and_clear(optimizer: Any, *_: Any, optimizer_closure: Callable[[], Any] | None = None, **__: Any) -> None:
    """Manual optimization once had a method for the step, which cleared the gradients as well."""
    optimizer.step(closure=optimizer_closure)
    optimizer.zero_grad()


def _summary(module: Any, mode: str | None = "top", max_depth: int | None = None) -> Any:
    return summarize(module, max_depth=max_depth if max_depth is not None else -1 if mode == "full" else 1)
