"""Old arguments of the Trainer and its verbs as today's; each is said once, with today's spelling."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from fulmen import callbacks as today
from fulmen.compat import callbacks as then
from fulmen.compat import devices
from fulmen.errors import MisconfigurationException
from fulmen.options import Options, listed, unknown
from fulmen.warn import warn_once

DEFAULTS = {name: field.default for name, field in Options.__dataclass_fields__.items()}

CALLS = {
    "train_dataloader": "train_dataloaders", "val_dataloader": "val_dataloaders", "test_dataloaders": "dataloaders",
    "val_dataloaders": "dataloaders", "predict_dataloaders": "dataloaders", "test_dataloader": "dataloaders",
}  # fmt: skip


def translate(arguments: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Today's arguments for the Trainer; what nobody knows is an error, which names the nearest of all times."""
    for name in arguments:
        if name not in known and name not in RULES:
            raise unknown(name, RULES)
    devices.SAID.update(name for name, value in arguments.items() if name not in known and value is not None)
    environment = from_environment(known | set(RULES))
    absent = {name: value for name, value in environment.items() if arguments.get(name) == DEFAULTS.get(name)}
    return Translation({**arguments, **absent}, known).result()


def translate_call(verb: str, arguments: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Today's keywords for `trainer.<verb>`."""
    new = {}
    for name, value in arguments.items():
        now = CALLS.get(name, name)
        if now != name and now in known:
            warn_once(f"trainer.{verb}({name}=...) is {now}= today.")
            new[now] = value
        elif verb == "fit" and now == "dataloaders" and name != now:
            warn_once(f"trainer.fit({name}=...) is not used; pass it to trainer.test(dataloaders=...).")
        else:
            new[name] = value
    return new


def from_environment(names: set[str]) -> dict[str, Any]:
    """Arguments given as environment variables: `PL_TRAINER_MAX_EPOCHS=3`."""
    found = {}
    for variable, text in os.environ.items():
        name = variable.removeprefix("PL_TRAINER_").lower()
        if variable.startswith("PL_TRAINER_") and name in names:
            try:
                found[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = text
    return found


class Translation:
    """One Trainer's arguments on their way from then to now; `whose` is the class that the user called."""

    def __init__(self, given: dict[str, Any], known: set[str], whose: str = "Trainer") -> None:
        self.whose = whose
        self.new = {**DEFAULTS, **{name: value for name, value in given.items() if name in known}}
        self.old = {name: value for name, value in given.items() if name not in known}
        self.added: list[Any] = []

    def result(self) -> dict[str, Any]:
        self._values_of_then()
        unused = [f"{name}={value!r}" for name, value in self.old.items() if asks_nothing(name, value)]
        if unused:
            warn_once(f"{self.whose}({', '.join(unused)}) can be left out: it asks for nothing today.")
        for name, (rule, *_) in RULES.items():  # in the table's order: devices are known before they are counted
            if name in self.old and not asks_nothing(name, self.old[name]):
                rule(self, name, self.old[name])
        devices.fit(self)
        if self.added:
            self.new["callbacks"] = [*listed(self.new["callbacks"]), *self.added]
        return self.new

    def say(self, name: str, spelling: str) -> None:
        """The one notice about an old argument."""
        warn_once(f"{self.whose}({name}={self.old.get(name)!r}) is spelled {spelling} today.")

    def num_gpus(self) -> int:
        """How many GPUs there are here."""
        return torch.cuda.device_count() or int(torch.backends.mps.is_available())

    def is_set(self, name: str) -> bool:
        """Whether today's argument has another value than its default."""
        return self.new[name] is not None and self.new[name] != DEFAULTS[name]

    def _values_of_then(self) -> None:
        """Today's arguments with values that they no longer take."""
        new, old = self.new, self.old
        if new["accelerator"] is None and all(old.get(name) is None for name in devices.HARDWARE):
            new["accelerator"] = "cpu"
            self.say("accelerator", "accelerator='cpu'")
        for name in ("accelerator", "devices", "strategy", "max_steps"):
            new[name] = DEFAULTS[name] if new[name] is None else new[name]
        if isinstance(new["accumulate_grad_batches"], dict):
            old["accumulate_grad_batches"], new["accumulate_grad_batches"] = new["accumulate_grad_batches"], 1
        if isinstance(new["profiler"], bool):
            new["profiler"] = "simple" if new["profiler"] else None
        for name in ("strategy", "accelerator"):
            if devices.is_old_word(name, new[name]):
                old[name], new[name] = new[name], "auto"
        plugins = listed(new["plugins"])
        words = ("ddp", "deepspeed", "fsdp", *devices.BACKENDS, *devices.GONE)
        strategies = [p for p in plugins if hasattr(p, "wrap_step") or (isinstance(p, str) and p.startswith(words))]
        if strategies:
            old["plugins"], new["plugins"] = strategies[0], [plugin for plugin in plugins if plugin not in strategies]


Rule = Callable[[Translation, str, Any], None]


def _renamed(now: str, convert: Callable[[Any], Any] = lambda value: value, *more: str, add: Any = None) -> Rule:
    """The rule of an argument that has another name today; `add` makes a callback that does what is left of it."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        for argument in (now, *more):
            if not translation.is_set(argument):
                translation.new[argument] = convert(value)
        translation.added += [add(value)] if add else []
        translation.say(name, f"{now}={convert(value)!r}")

    return rule


def _callback(spelling: str, make: Callable[[Any], Any]) -> Rule:
    """The rule of an argument that is a callback today."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        translation.added.append(make(value))
        translation.say(name, spelling)

    return rule


def _later(part: str) -> Rule:
    """The rule of an argument that asks for what Fulmen has not yet."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        raise MisconfigurationException(
            f"{name}={value!r} asks for {part}, which will come with a later release of Fulmen than 0.1; leave it out."
        )

    return rule


def _of_the_module(translation: Translation, name: str, value: Any) -> None:
    translation.added.append(then.OfTheModule(name, value))
    translation.say(name, f"self.{name} = {value!r} in the module")


def _switch_or_callback(now: str, default: Callable[[], Any] | None = None) -> Rule:
    """The rule of an argument that took a bool or the callback itself."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        if not isinstance(value, bool):
            translation.added.append(value)
        elif default is not None:
            translation.added.append(default())
        else:
            translation.new[now] = value
        translation.say(name, f"{now}={value}" if isinstance(value, bool) and not default else "callbacks=[...]")

    return rule


def _weights_summary(translation: Translation, name: str, value: Any) -> None:
    if not value:
        translation.new["enable_model_summary"] = False
        translation.say(name, "enable_model_summary=False")
    elif value in ("top", "full"):
        depth = 1 if value == "top" else -1
        translation.added.append(today.ModelSummary(max_depth=depth))
        translation.say(name, f"callbacks=[ModelSummary(max_depth={depth})]")
    else:
        raise MisconfigurationException(f"weights_summary={value!r} must be 'top', 'full' or None.")


def _progress_bar(translation: Translation, name: str, value: Any) -> None:
    rate, position = translation.old.get("progress_bar_refresh_rate"), translation.old.get("process_position") or 0
    bars = [callback for callback in translation.added if isinstance(callback, today.ProgressBar)]
    if rate == 0:
        translation.new["enable_progress_bar"] = False
        translation.say(name, "enable_progress_bar=False")
    elif translation.new["enable_progress_bar"] is not False and not bars:
        rate = 1 if rate is None else rate
        bar = today.TQDMProgressBar(rate, position) if find_spec("tqdm") else today.RichProgressBar(rate)
        translation.added.append(bar)
        translation.say(name, f"callbacks=[TQDMProgressBar({name.removeprefix('progress_bar_')}={value!r})]")


def _prepare_data_per_node(translation: Translation, name: str, value: Any) -> None:
    if translation.new["num_nodes"] > 1:
        raise MisconfigurationException(
            "prepare_data_per_node=False over several nodes is said in the module or datamodule: "
            "self.prepare_data_per_node = False."
        )


def _nothing(translation: Translation, name: str, value: Any) -> None:
    """Read by another rule, or without effect."""


def asks_nothing(name: str, value: Any) -> bool:
    """Whether an old argument has one of the values with which it asked for nothing, None and False unless stated."""
    if name not in RULES:
        return False
    idle = RULES[name][1:] or (None, False)
    return ANY in idle or any(value is one or (type(value) is type(one) and value == one) for one in idle)


ANY = object()
NEVER = object()
FLUSH = "logger.save() in a callback, or CSVLogger(flush_logs_every_n_steps=...)"

# An old argument's rule, then the values with which it asks for nothing.
RULES: dict[str, tuple[Any, ...]] = {
    "gpus": (devices.gpus, NEVER),
    "auto_select_gpus": (_nothing,),
    "tpu_cores": (devices.others,),
    "num_tpu_cores": (devices.others,),
    "ipus": (devices.others,),
    "num_processes": (devices.num_processes, None, 1),
    "distributed_backend": (devices.backend,),
    "accelerator": (devices.backend,),
    "strategy": (devices.backend,),
    "plugins": (_renamed("strategy", lambda value: devices.BACKENDS.get(value, value)),),
    "accumulate_grad_batches": (
        _callback("callbacks=[GradientAccumulationScheduler(...)]", today.GradientAccumulationScheduler),
    ),
    "amp_backend": (_nothing, ANY),  # mixed precision is torch's own
    "amp_level": (_nothing, ANY),
    "automatic_optimization": (_of_the_module, None, True),
    "auto_lr_find": (_later("the tuner"),),
    "auto_scale_batch_size": (_later("the tuner"),),
    "checkpoint_callback": (_switch_or_callback("enable_checkpointing"), None),
    "cluster_environment": (_renamed("plugins"),),
    "default_save_path": (_renamed("default_root_dir"),),
    "early_stop_callback": (
        _switch_or_callback("", lambda: today.EarlyStopping("val_loss", patience=3, verbose=True)),
    ),
    "enable_pl_optimizer": (_nothing, ANY),
    "flush_logs_every_n_steps": (_callback(FLUSH, then.FlushLogs),),
    "log_save_interval": (_callback(FLUSH, then.FlushLogs),),
    "gradient_clip": (_renamed("gradient_clip_val"),),
    "log_gpu_memory": (_callback("callbacks=[DeviceStatsMonitor()]", then.GpuMemory),),
    "max_nb_epochs": (_renamed("max_epochs"),),
    "min_nb_epochs": (_renamed("min_epochs"),),
    "move_metrics_to_cpu": (_nothing, ANY),  # no outputs are collected on the device
    "multiple_trainloader_mode": (
        _callback("CombinedLoader(loaders, mode=...)", then.LoaderMode), None, "max_size_cycle"
    ),
    "nb_gpu_nodes": (_renamed("num_nodes"),),
    "nb_sanity_val_steps": (_renamed("num_sanity_val_steps"),),
    "overfit_pct": (_renamed("overfit_batches", float, "limit_test_batches"), None, 0, 0.0),
    "prepare_data_per_node": (_prepare_data_per_node, None, True),
    "print_nan_grads": (_renamed("nonfinite", lambda _: "warn"),),
    "progress_bar_callback": (_switch_or_callback("enable_progress_bar"), None, True),
    "progress_bar_refresh_rate": (_progress_bar, None),
    "process_position": (_progress_bar, None, 0),
    "reload_dataloaders_every_epoch": (_renamed("reload_dataloaders_every_n_epochs", int),),
    "replace_sampler_ddp": (_renamed("use_distributed_sampler"), None),
    "resume_from_checkpoint": (_callback("trainer.fit(ckpt_path=...)", then.Resume),),
    "row_log_interval": (_renamed("log_every_n_steps", add=then.RowInterval),),
    "add_row_log_interval": (_renamed("log_every_n_steps", add=then.RowInterval),),
    "show_progress_bar": (_renamed("enable_progress_bar"), None),
    "stochastic_weight_avg": (_later("weight averaging"),),
    "terminate_on_nan": (_renamed("nonfinite", lambda _: "stop"),),
    "test_percent_check": (_renamed("limit_test_batches", float), None),
    "track_grad_norm": (_callback("self.log_dict(grad_norm(self, norm_type=...))", then.TrackGradNorm), None, -1),
    "train_percent_check": (_renamed("limit_train_batches", float), None),
    "truncated_bptt_steps": (_of_the_module, None, 0),
    "use_amp": (_renamed("precision", lambda _: "16-mixed"),),
    "val_percent_check": (_renamed("limit_val_batches", float), None),
    "weights_save_path": (_callback("ModelCheckpoint(dirpath=...)", then.WeightsFolder),),
    "weights_summary": (_weights_summary, NEVER),
}  # fmt: skip
