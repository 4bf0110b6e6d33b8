"""Save checkpoints while training: when, under which names, and which of them to keep."""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fulmen.callbacks.base import Checkpoint
from fulmen.checkpoint import files
from fulmen.errors import CheckpointError, MisconfigurationException, nearest
from fulmen.warn import rank_zero_info, rank_zero_warn, warn_once

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer

COUNTERS = ("epoch", "step")
"""What a file can be named after, or ranked by, without being logged."""

_FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")


class ModelCheckpoint(Checkpoint):
    """Save the model as it trains, and keep the `save_top_k` best by the logged metric `monitor`.

        ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.2f}", save_top_k=3)

    Saves are due every `every_n_train_steps` optimizer steps, every `train_time_interval`, or else every
    `every_n_epochs` epochs: after their validation, or at their end (`save_on_train_epoch_end=True`). A file is ranked by
    a value that belongs to the weights in it: a save that is due before its value is known is made as soon as it is.
    Without `monitor` the newest file is kept. `save_last=True` keeps a copy of the newest file as `last.ckpt`, "link" a
    symbolic link to it. Names that are taken by files of another run get `-v1`, `-v2` and so on.
    """

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
    ) -> None:
        by_default = every_n_train_steps is None and train_time_interval is None and every_n_epochs is None
        self.dirpath = dirpath if dirpath is None or files.is_remote(dirpath) else _absolute(dirpath)
        self.filename = None if filename is None else os.fspath(filename)
        self.monitor = monitor
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = save_top_k
        self.save_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.auto_insert_metric_name = auto_insert_metric_name
        self._every_n_train_steps = every_n_train_steps or 0
        self._train_time_interval = train_time_interval
        self._every_n_epochs = 1 if by_default else every_n_epochs or 0
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._enable_version_counter = enable_version_counter
        self._check()

        self.best_k_models: dict[str, Tensor] = {}
        self.best_model_path = ""
        self.best_model_score: Tensor | None = None
        self.kth_best_model_path = ""
        self.kth_value = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.current_score: Tensor | None = None
        self.last_model_path = ""
        self._progress: dict[str, Any] = {
            "due": False,  # a save waits for the monitored value
            "source": None,  # where that value comes from: "step", "validation" or "epoch"
            "asked_at": 0,  # the step at which a save was last due
            "saved_at": 0,
            "validated_at": -1,
            "evicted": [],  # files that the newest one replaces, deleted when that is complete
        }
        self._by_batch = bool(self._every_n_train_steps) or train_time_interval is not None
        self._attends_batches = False
        self._checked_s = 0.0

    def _check(self) -> None:
        if self.mode not in ("min", "max"):
            raise MisconfigurationException(f"mode={self.mode!r} must be 'min' or 'max'.{nearest(self.mode, _MODES)}")
        if not isinstance(self.save_top_k, int) or self.save_top_k < -1:
            raise MisconfigurationException(
                f"save_top_k={self.save_top_k!r} must be >= -1 (-1 keeps all, 0 saves none)."
            )
        if self.monitor is None and self.save_top_k > 1:
            raise MisconfigurationException(
                f"save_top_k={self.save_top_k} needs monitor='...', the name of a logged metric to rank files by. "
                "Without one, save_top_k=1 keeps the newest and -1 keeps all."
            )
        if self.save_last not in (None, True, False, "link"):
            raise MisconfigurationException(f"save_last={self.save_last!r} must be True, False, None or 'link'.")
        every = {
            "every_n_train_steps": self._every_n_train_steps,
            "every_n_epochs": self._every_n_epochs,
            "train_time_interval": self._train_time_interval,
        }
        for name in ("every_n_train_steps", "every_n_epochs"):
            if every[name] < 0:  # type: ignore[operator]
                raise MisconfigurationException(f"{name}={every[name]} must be >= 0 (0 turns it off).")
        if self._train_time_interval is not None and not isinstance(self._train_time_interval, timedelta):
            raise TypeError(f"train_time_interval={self._train_time_interval!r} must be a datetime.timedelta.")
        given = [f"{name}={value}" for name, value in every.items() if value not in (None, 0)]
        if len(given) > 1:
            raise MisconfigurationException(
                f"{' and '.join(given)} exclude each other. Use one ModelCheckpoint for each."
            )

    @property
    def every_n_epochs(self) -> int | None:
        """Epochs between saves; 0 where steps or time count."""
        return self._every_n_epochs

    # ---- state

    @property
    def state_key(self) -> str:
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "current_score": self.current_score,
            "dirpath": self.dirpath,
            "best_k_models": dict(self.best_k_models),
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "last_model_path": self.last_model_path,
            "progress": dict(self._progress),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("dirpath", self.dirpath) == self.dirpath:
            for name in ("best_model_score", "kth_best_model_path", "kth_value", "current_score", "last_model_path"):
                setattr(self, name, state_dict.get(name, getattr(self, name)))
            self.best_k_models = dict(state_dict.get("best_k_models", {}))
            self._progress.update(state_dict.get("progress", {}))
        else:
            rank_zero_warn(
                f"ModelCheckpoint saves in {self.dirpath!r} now, not in {state_dict['dirpath']!r} as before: of its state "
                "only best_model_path is taken over, and files in the former folder are left alone."
            )
        self.best_model_path = state_dict["best_model_path"]

    # ---- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self.dirpath or _default_folder(trainer))
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            try:
                files.makedirs(self.dirpath)
            except OSError as error:
                raise MisconfigurationException(
                    f"ModelCheckpoint cannot save in {self.dirpath!r}: {error.strerror or error}. Pass another dirpath, or "
                    "another default_root_dir to the Trainer."
                ) from error
            if not files.is_remote(self.dirpath) and not os.access(self.dirpath, os.W_OK):
                raise MisconfigurationException(
                    f"ModelCheckpoint cannot save in {self.dirpath!r}: the folder is not writable. Pass another dirpath."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._checked_s = time.monotonic()
        self._attends_batches = self._by_batch or self._progress["source"] is None
        self._delete_evicted(trainer)  # a kill may have come between a save and this

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._attends_batches:
            return
        progress = self._progress
        if progress["source"] is None and self.monitor in trainer.callback_metrics and trainer.current_epoch == 0:
            progress["source"] = "step"
        self._attends_batches = self._by_batch
        step = trainer.global_step
        if self._by_batch and self._runs(trainer) and step not in (0, progress["asked_at"], progress["saved_at"]):
            if self._every_n_train_steps:
                due = step % self._every_n_train_steps == 0
            else:
                due = self._interval_is_over(trainer)
            if due:
                progress.update(due=True, asked_at=step)
                self._save_if_known(trainer, "batch")

    def _interval_is_over(self, trainer: Trainer) -> bool:
        now_s = time.monotonic()
        assert self._train_time_interval is not None
        over = trainer.strategy.broadcast(now_s - self._checked_s >= self._train_time_interval.total_seconds())
        if over:
            self._checked_s = now_s
        return over

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._runs(trainer):
            return
        progress = self._progress
        progress["validated_at"] = trainer.global_step
        if progress["source"] is None and self.monitor in trainer.callback_metrics:
            progress["source"] = "validation"
        if not self._saves_at_epoch_end(trainer) and self._epoch_is_due(trainer):
            progress["due"] = True
        self._save_if_known(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._runs(trainer):
            return
        progress = self._progress
        if progress["source"] is None and self.monitor in trainer.callback_metrics:
            progress["source"] = "epoch"
        if self._saves_at_epoch_end(trainer) and self._epoch_is_due(trainer):
            progress["due"] = True
        self._save_if_known(trainer, "epoch")
        validated = progress["validated_at"] >= 0 or not trainer.enable_validation
        if progress["due"] and self.save_top_k and validated:
            self._require_monitor(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        unsaved = trainer.global_step not in (0, self._progress["saved_at"])
        if self.save_on_exception and self._runs(trainer) and unsaved and not isinstance(exception, CheckpointError):
            path = self._free_path(trainer, self._candidates(trainer))
            self._write(trainer, path, self._next_last(trainer))

    def _runs(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run

    def _saves_at_epoch_end(self, trainer: Trainer) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        once = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
        return once or not trainer.enable_validation

    def _epoch_is_due(self, trainer: Trainer) -> bool:
        every = self._every_n_epochs
        return (
            every > 0 and (trainer.current_epoch + 1) % every == 0 and self._progress["saved_at"] != trainer.global_step
        )

    def _save_if_known(self, trainer: Trainer, moment: str) -> None:
        """Make the save that is due if what it is ranked by, or named after, belongs to the weights of this moment."""
        progress = self._progress
        if not progress["due"]:
            return
        source = progress["source"]
        if moment == "batch" and trainer.validation_due:
            named = {self.monitor, *_names(self.filename or "")} - {None, *COUNTERS}
            if named - ({self.monitor} if source == "step" else set()):
                return
        if self.monitor is not None and self.monitor not in self._candidates(trainer):
            known = self.save_top_k == 0
        elif source == "validation":
            known = progress["validated_at"] == trainer.global_step
        else:
            known = source != "epoch" or moment == "epoch"
        if known:
            self._save(trainer)

    def _require_monitor(self, trainer: Trainer) -> None:
        metrics = self._candidates(trainer)
        if self.monitor is not None and self.monitor not in metrics:
            raise MisconfigurationException(
                f"ModelCheckpoint(monitor={self.monitor!r}): no metric of that name was logged.{nearest(self.monitor, metrics)} "
                f"Metrics available: {', '.join(map(repr, metrics))}. Log it with self.log({self.monitor!r}, value)."
            )

    # ---- which

    def _candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        metrics = dict(trainer.callback_metrics)
        for name, value in zip(COUNTERS, (trainer.current_epoch, trainer.global_step), strict=True):
            metrics[name] = metrics[name].int() if name in metrics else torch.tensor(value)
        return metrics

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a file with the score `current` belongs to those that are kept."""
        if current is None:
            return False
        if self.save_top_k == -1 or len(self.best_k_models) < self.save_top_k:
            return True
        kth = self.best_k_models[self.kth_best_model_path].to(current.device)
        better = bool(current < kth if self.mode == "min" else current > kth)
        return trainer.strategy.reduce_boolean_decision(better)

    def _save(self, trainer: Trainer) -> None:
        self._progress["due"] = False
        if self._progress["saved_at"] == trainer.global_step:
            return
        metrics = self._candidates(trainer)
        path, evicted = "", ""
        before = self.state_dict()
        if self.save_top_k and self.monitor is None:
            evicted = self.best_model_path if self.save_top_k == 1 else ""
            path = self.best_model_path = self._free_path(trainer, metrics, evicted)
        elif self.save_top_k:
            current = metrics[self.monitor]  # type: ignore[index]
            if not self.check_monitor_top_k(trainer, current):
                if self.verbose:
                    rank_zero_info(f"{_where(metrics)}: {self.monitor} was not in top {self.save_top_k}")
                return
            path, evicted = self._enter(trainer, current, metrics)
        if not path and not self.save_last:
            return
        self._progress["evicted"] = [evicted] if evicted not in ("", path) else []
        try:
            self._write(trainer, path, self._next_last(trainer))
        except BaseException:  # the file is not there: forget it
            self.load_state_dict(before)
            raise
        self._delete_evicted(trainer)
        if self.verbose:
            rank_zero_info(f"{_where(metrics)}: saved {path or self.last_model_path!r}{self._standing()}")

    def _standing(self) -> str:
        if self.monitor is None or self.current_score is None or self.best_model_score is None:
            return ""
        return f", {self.monitor} {self.current_score.item():.5f} (best {self.best_model_score.item():.5f})"

    def _enter(self, trainer: Trainer, current: Tensor, metrics: dict[str, Tensor]) -> tuple[str, str]:
        """Put a new file into the ranking. Returns its path and that of the file which has to go."""
        sign, evicted = (1.0 if self.mode == "min" else -1.0), ""
        if len(self.best_k_models) == self.save_top_k:
            evicted = self.kth_best_model_path
            self.best_k_models.pop(evicted)
        # not a number: the worst there is
        current = torch.where(torch.isnan(current), sign * torch.inf, current.detach()).cpu()
        path = self._free_path(trainer, metrics, evicted)
        self.current_score = self.best_k_models[path] = current
        ranked = sorted(self.best_k_models, key=lambda name: sign * self.best_k_models[name].item())
        self.best_model_path = ranked[0]
        self.best_model_score = self.best_k_models[ranked[0]]
        if len(ranked) == self.save_top_k or self.save_top_k == -1:
            worst = self.best_k_models[ranked[-1]]
            self.kth_best_model_path = next(name for name in ranked if self.best_k_models[name] == worst)
            self.kth_value = worst
        return path, evicted

    # ---- files

    def format_checkpoint_name(
        self, metrics: dict[str, Any], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """The path of a file, from the template `filename` (or the callback's) and `metrics`.

        >>> ModelCheckpoint(filename="{epoch}-{val_loss:.2f}").format_checkpoint_name({"epoch": 2, "val_loss": 0.123})
        'epoch=2-val_loss=0.12.ckpt'
        """
        template = filename or self.filename or self.CHECKPOINT_JOIN_CHAR.join(f"{{{name}}}" for name in COUNTERS)

        def shown(field: re.Match[str]) -> str:
            name, style = field[1], (field[2] or ":")[1:]
            value = metrics.get(name, torch.tensor(0))
            try:
                text = format(value, style)
            except (ValueError, TypeError) as error:
                raise MisconfigurationException(
                    f"filename={template!r}: {field[0]} does not fit {value!r}: {error}"
                ) from error
            return f"{name}{self.CHECKPOINT_EQUALS_CHAR}{text}" if self.auto_insert_metric_name else text

        parts = [prefix, _FIELD.sub(shown, template), None if ver is None else f"v{ver}"]
        name = self.CHECKPOINT_JOIN_CHAR.join(part for part in parts if part) + self.FILE_EXTENSION
        return name if self.dirpath is None else files.join(self.dirpath, name)

    def _free_path(
        self, trainer: Trainer, metrics: dict[str, Tensor], own: str = "", filename: str | None = None
    ) -> str:
        """The path for a file: one that no other file has, though it may be `own`."""
        unknown = [name for name in _names(filename or self.filename or "") if name not in metrics]
        if unknown:
            warn_once(
                f"ModelCheckpoint(filename={self.filename!r}) names {', '.join(map(repr, unknown))}, of which nothing is logged "
                f"so far; 0 stands there instead.{nearest(unknown[0], metrics)} Metrics available: "
                f"{', '.join(map(repr, metrics))}."
            )
        path = self.format_checkpoint_name(metrics, filename)
        version = self.STARTING_VERSION
        while self._enable_version_counter and path != own and self.file_exists(path, trainer):
            path = self.format_checkpoint_name(metrics, filename, ver=version)
            version += 1
        return path

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Trainer) -> bool:
        """Whether rank zero finds a file there; every rank must ask."""
        return trainer.strategy.broadcast(trainer.is_global_zero and files.exists(filepath))

    def _next_last(self, trainer: Trainer) -> str:
        if not self.save_last:
            return ""
        return self._free_path(trainer, self._candidates(trainer), self.last_model_path, self.CHECKPOINT_NAME_LAST)

    def _write(self, trainer: Trainer, path: str, last: str) -> None:
        """Save under `path` and `last` (either may be empty). The callback's state is that of afterwards already."""
        self._progress["saved_at"] = trainer.global_step
        if self.last_model_path not in ("", last) and last:
            self._progress["evicted"] = [*self._progress["evicted"], self.last_model_path]
        self.last_model_path = last or self.last_model_path
        if path:
            trainer.save_checkpoint(path, self.save_weights_only)
        if last and not (path and self._repeat(trainer, path, last)):
            trainer.save_checkpoint(last, self.save_weights_only)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def _repeat(self, trainer: Trainer, path: str, last: str) -> bool:
        """Make `last` a link to or a copy of the file at `path`, where it lies on a disk of rank zero."""
        here = not files.is_remote(path) and (trainer.is_global_zero and os.path.exists(path))
        here = trainer.strategy.broadcast(here)
        if here and trainer.is_global_zero:
            files.repeat(path, last, link=self.save_last == "link")
        trainer.strategy.barrier("ModelCheckpoint")
        return here

    def _delete_evicted(self, trainer: Trainer) -> None:
        paths, self._progress["evicted"] = self._progress["evicted"], []
        if trainer.is_global_zero:
            for path in paths:
                if self._is_own(path):
                    files.remove(path)

    def _is_own(self, path: str) -> bool:
        """Whether `path` may be deleted: a checkpoint in this callback's folder, whatever a restored state says."""
        if not path.endswith(self.FILE_EXTENSION) or path in (*self.best_k_models, self.last_model_path):
            return False
        if files.is_remote(path):
            return path.startswith(f"{str(self.dirpath).rstrip('/')}/") and ".." not in path
        return Path(self.dirpath or "") in Path(os.path.realpath(os.path.dirname(path)), "file").parents

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write the kept files and their scores as YAML, by default to best_k_models.yaml in the same folder."""
        import yaml

        scores = {path: score.item() for path, score in self.best_k_models.items()}
        Path(filepath or files.join(self.dirpath or ".", "best_k_models.yaml")).write_text(yaml.safe_dump(scores))


_MODES = ("min", "max")


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(os.path.expanduser(files.local(path)))


def _names(template: str) -> list[str]:
    return [name for name, _ in _FIELD.findall(template)]


def _where(metrics: dict[str, Tensor]) -> str:
    return f"Epoch {metrics['epoch'].item()}, global step {metrics['step'].item()}"


def _default_folder(trainer: Trainer) -> str:
    """`checkpoints` in the folder of the first logger's run, or in the trainer's folder."""
    if not trainer.loggers:
        return files.join(trainer.default_root_dir, "checkpoints")
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    folder = logger.save_dir or trainer.default_root_dir
    return files.join(folder, str(logger.name), version, "checkpoints")
