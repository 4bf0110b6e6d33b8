"""Save checkpoints while training: when, under which names, and which of them to keep."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import torch
from torch import Tensor

from fulmen.callbacks import filename as names
from fulmen.callbacks.base import Checkpoint
from fulmen.callbacks.filename import COUNTERS
from fulmen.checkpoint import files, places
from fulmen.errors import CheckpointError, MisconfigurationException, SIGTERMException, nearest
from fulmen.warn import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer

MODES = ("min", "max")
RANKING = ("best_model_score", "current_score", "kth_best_model_path", "kth_value", "last_model_path")


class ModelCheckpoint(Checkpoint):
    """Save the model as it trains, and keep the `save_top_k` best by the logged metric `monitor`.

        ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.2f}", save_top_k=3)

    Saves are due every `every_n_train_steps` optimizer steps, every `train_time_interval`, or else every
    `every_n_epochs` epochs: after their validation, or at their end (`save_on_train_epoch_end=True`). A file is ranked
    by a value that belongs to the weights in it: a save that is due before its value is known is made as soon as it is.
    Without `monitor` the newest file is kept. `save_last=True` keeps a copy of the newest file as `last.ckpt`, "link" a
    symbolic link to it. Names that other files have get `-v1`, `-v2` and so on.
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
        self.dirpath = None if dirpath is None else names.absolute(dirpath)
        self.filename = filename
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
        self.kth_value = self._worst_score = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.current_score: Tensor | None = None
        self.last_model_path = ""
        self._progress: dict[str, Any] = {
            "due": False,  # a save waits for the monitored value
            "source": None,  # where that value comes from: "step", "validation" or "epoch"
            "asked_at": 0,  # the step at which a save was last due
            "saved_at": 0,
            "validated_at": -1,
            "evicted": [],  # files that the newest one replaces, deleted once that is complete
        }
        self._by_batch = bool(self._every_n_train_steps) or train_time_interval is not None
        self._attends_batches = self._is_learning = False
        self._checked_s = 0.0
        self._run: str | None = None  # goes into every file, to know those of this run after a restart
        self._resumed_at: int | None = None
        self._written: set[str] = set()

    def _check(self) -> None:
        """Refuse arguments that make no sense."""
        steps, epochs, interval = self._every_n_train_steps, self._every_n_epochs, self._train_time_interval
        if interval is not None and not isinstance(interval, timedelta):
            raise TypeError(f"train_time_interval={interval!r} must be a datetime.timedelta.")
        top_k = self.save_top_k if isinstance(self.save_top_k, int) else -2
        for wrong, message in (
            (self.mode not in MODES, f"mode={self.mode!r} must be 'min' or 'max'.{nearest(self.mode, MODES)}"),
            (top_k < -1, f"save_top_k={self.save_top_k!r} must be an int >= -1 (-1 keeps all, 0 none)."),
            (
                top_k > 1 and self.monitor is None,
                f"save_top_k={top_k} needs monitor='...', the name of a logged metric to rank files by. Without one, "
                "save_top_k=1 keeps the newest and -1 keeps all.",
            ),
            (
                self.save_last not in (None, True, False, "link"),
                f"save_last={self.save_last!r} must be True, False, None or 'link'.",
            ),
            (steps < 0, f"every_n_train_steps={steps} must be >= 0 (0 turns it off)."),
            (epochs < 0, f"every_n_epochs={epochs} must be >= 0 (0 turns it off)."),
            (
                (steps > 0) + (epochs > 0) + (interval is not None) > 1,
                f"every_n_train_steps={steps}, every_n_epochs={epochs} and train_time_interval={interval} exclude each "
                "other. Use one ModelCheckpoint for each.",
            ),
        ):
            if wrong:
                raise MisconfigurationException(message)

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
        kept = {name: getattr(self, name) for name in ("monitor", "dirpath", "best_model_path", *RANKING)}
        return {**kept, "best_k_models": dict(self.best_k_models), "progress": dict(self._progress)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_model_path = state_dict["best_model_path"]
        if state_dict.get("dirpath", self.dirpath) != self.dirpath:
            rank_zero_warn(
                f"ModelCheckpoint saves in {self.dirpath!r} now, before in {state_dict['dirpath']!r}: of its state "
                "only best_model_path is taken over, and files in the former folder are left alone."
            )
            return
        for name in RANKING:
            setattr(self, name, state_dict.get(name, getattr(self, name)))
        self.best_k_models = dict(state_dict.get("best_k_models", {}))
        while len(self.best_k_models) > self.save_top_k > 0:  # save_top_k is less than it was
            del self.best_k_models[self._worst()]
        self._progress.update(state_dict.get("progress", {}))

    # ---- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self.dirpath or names.absolute(names.default_folder(trainer)))
        self._run, self._resumed_at, self._written = None, None, set()
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            names.prepare(self.dirpath)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._run = checkpoint.get("fulmen", {}).get("run")
        self._resumed_at = checkpoint.get("global_step")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault("fulmen", {}).setdefault("run", self._run)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run = self._run or trainer.strategy.broadcast(uuid4().hex)
        self._checked_s = time.monotonic()
        self._is_learning = self._progress["source"] is None and self.monitor not in (None, *trainer.callback_metrics)
        self._attends_batches = self._by_batch or self._is_learning
        self._delete_evicted(trainer)  # a kill may have come between a save and this

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._attends_batches:
            return
        if self._is_learning:
            self._learn(trainer, "step")
            self._is_learning, self._attends_batches = False, self._by_batch
        step, progress = trainer.global_step, self._progress
        if not self._by_batch or step in (0, progress["asked_at"], progress["saved_at"]) or trainer.fast_dev_run:
            return
        every = self._every_n_train_steps
        if step % every == 0 if every else self._interval_is_over(trainer):
            progress.update(due=True, asked_at=step)
            self._save_if_known(trainer, "batch")

    def _interval_is_over(self, trainer: Trainer) -> bool:
        assert self._train_time_interval is not None
        passed_s = time.monotonic() - self._checked_s
        over = trainer.strategy.broadcast(passed_s >= self._train_time_interval.total_seconds())
        self._checked_s += passed_s if over else 0
        return over

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._runs(trainer):
            self._learn(trainer, "validation")
            self._progress["validated_at"] = trainer.global_step
            if not self._saves_at_epoch_end(trainer) and self._epoch_is_due(trainer):
                self._progress["due"] = True
            self._save_if_known(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._runs(trainer):
            return
        self._learn(trainer, "epoch")
        if self._saves_at_epoch_end(trainer) and self._epoch_is_due(trainer):
            self._progress["due"] = True
        self._save_if_known(trainer, "epoch")
        validated = self._progress["validated_at"] >= 0 or not trainer.enable_validation
        metrics = self._candidates(trainer)
        if self._progress["due"] and validated and self.monitor is not None and self.monitor not in metrics:
            raise MisconfigurationException(
                f"ModelCheckpoint(monitor={self.monitor!r}): no metric of that name was logged."
                f"{nearest(self.monitor, metrics)} Metrics available: {', '.join(map(repr, metrics))}. "
                f"Log it with self.log({self.monitor!r}, value)."
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # with several ranks, the others may be gone: only what all of them raise together can be waited for
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        unsaved = trainer.global_step not in (0, self._progress["saved_at"])
        wanted = self.save_on_exception and not isinstance(exception, CheckpointError)
        if wanted and together and unsaved and self._runs(trainer):
            self._write(trainer, self._free_path(trainer, self._candidates(trainer)), self._next_last(trainer))

    def _runs(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run

    def _saves_at_epoch_end(self, trainer: Trainer) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        once = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
        return once or not trainer.enable_validation

    def _epoch_is_due(self, trainer: Trainer) -> bool:
        every = self._every_n_epochs
        return every > 0 and (trainer.current_epoch + 1) % every == 0

    def _learn(self, trainer: Trainer, source: str) -> None:
        """Remember where the monitored value comes from: the first moment at which it is there."""
        if self._progress["source"] is None and self.monitor is not None and self.monitor in trainer.callback_metrics:
            self._progress["source"] = source

    def _save_if_known(self, trainer: Trainer, moment: str) -> None:
        """Make the save that is due if what it is ranked by, or named after, belongs to the weights of this moment."""
        progress, source = self._progress, self._progress["source"]
        if not progress["due"]:
            return
        if moment == "batch" and trainer.validation_due:
            waiting_for = {self.monitor, *names.fields(self.filename)} - {None, *COUNTERS}
            if waiting_for - ({self.monitor} if source == "step" else set()):
                return
        if self.monitor is not None and self.monitor not in self._candidates(trainer):
            known = self.save_top_k == 0
        elif source == "validation":
            known = progress["validated_at"] == trainer.global_step
        else:
            known = source != "epoch" or moment == "epoch"
        if known:
            progress["due"] = False
            if progress["saved_at"] != trainer.global_step:
                self._save(trainer)

    # ---- which

    def _candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """What files can be ranked by and named after."""
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
        kth = self.best_k_models[self._worst()].to(current.device)
        return trainer.strategy.reduce_boolean_decision(bool(current < kth if self.mode == "min" else current > kth))

    def _worst(self) -> str:
        """Of the kept files the worst, and of several the oldest."""
        scores = self.best_k_models
        return (max if self.mode == "min" else min)(scores, key=lambda path: scores[path].item())

    def _save(self, trainer: Trainer) -> None:
        metrics = self._candidates(trainer)
        path, evicted, before = "", [""], self.state_dict()
        if self.save_top_k and self.monitor is None:
            evicted = [self.best_model_path] if self.save_top_k == 1 else []
            path = self.best_model_path = self._free_path(trainer, metrics, evicted)
        elif self.save_top_k and self.check_monitor_top_k(trainer, metrics[self.monitor]):  # type: ignore[index]
            path, evicted = self._enter(trainer, metrics)
        elif self.save_top_k or not self.save_last:
            return
        self._progress["evicted"] = [old for old in evicted if old not in ("", path)]
        try:
            self._write(trainer, path, self._next_last(trainer))
        except BaseException:  # the file is not there: forget it
            self.load_state_dict(before)
            raise
        self._delete_evicted(trainer)
        if self.verbose:
            score = "" if self.current_score is None else f" with {self.monitor}={self.current_score.item():.5f}"
            where = f"Epoch {trainer.current_epoch}, global step {trainer.global_step}"
            rank_zero_info(f"{where}: saved {path or self.last_model_path!r}{score}")

    def _enter(self, trainer: Trainer, metrics: dict[str, Tensor]) -> tuple[str, list[str]]:
        """Put a new file into the ranking. Returns its path, and that of the one that has to go."""
        scores, evicted = self.best_k_models, []
        if len(scores) == self.save_top_k:
            evicted = [self._worst()]
            del scores[evicted[0]]
        path = self._free_path(trainer, metrics, evicted)
        current = metrics[self.monitor]  # type: ignore[index]
        self.current_score = scores[path] = self._worst_score if torch.isnan(current) else current.detach().cpu()
        best = (min if self.mode == "min" else max)(scores, key=lambda path: scores[path].item())
        self.best_model_path, self.best_model_score = best, scores[best]
        if self.save_top_k in (-1, len(scores)):
            self.kth_best_model_path, self.kth_value = self._worst(), scores[self._worst()]
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
        filled = names.fill(template, metrics, self.CHECKPOINT_EQUALS_CHAR if self.auto_insert_metric_name else "")
        parts = [prefix, filled, None if ver is None else f"v{ver}"]
        name = self.CHECKPOINT_JOIN_CHAR.join(part for part in parts if part) + self.FILE_EXTENSION
        return name if self.dirpath is None else places.join(self.dirpath, name)

    def _free_path(self, trainer: Trainer, metrics: dict[str, Any], own: Sequence[str] = (), filename: str = "") -> str:
        """The path for a file: one that no other file has, though it may be one of its `own`. Rank zero chooses."""
        names.warn_of_unknown(filename or self.filename, metrics)
        path, version = self.format_checkpoint_name(metrics, filename), self.STARTING_VERSION
        while trainer.is_global_zero and self._enable_version_counter and path not in own and self._is_taken(path):
            path = self.format_checkpoint_name(metrics, filename, ver=version)
            version += 1
        return trainer.strategy.broadcast(path)

    def _is_taken(self, path: str) -> bool:
        if not places.exists(path) or self._resumed_at is None:
            return places.exists(path)
        known = path in self._written or path in self.best_k_models
        return known or not names.is_overtaken(path, self._run, self._resumed_at)

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Trainer) -> bool:
        """Whether rank zero finds a file there; every rank must ask."""
        return trainer.strategy.broadcast(trainer.is_global_zero and places.exists(filepath))

    def find_last(self, trainer: Trainer) -> str | None:
        """What ckpt_path="last" means: of the whole files in the folder the one of the latest step.

        Files older than last.ckpt, where there is one, may be another run's and count only if no other is whole.
        """
        found = None
        if trainer.is_global_zero and self.dirpath is not None:
            prefix = self.CHECKPOINT_NAME_LAST.partition("{")[0] or "last"
            found = files.newest_good(self.dirpath, f"{prefix}*{self.FILE_EXTENSION}")
        return trainer.strategy.broadcast(found)

    def _next_last(self, trainer: Trainer) -> str:
        if not self.save_last:
            return ""
        return self._free_path(trainer, self._candidates(trainer), [self.last_model_path], self.CHECKPOINT_NAME_LAST)

    def _write(self, trainer: Trainer, path: str, last: str) -> None:
        """Save under `path` and `last` (one may be empty). What is saved of this callback is its state afterwards."""
        self._progress["saved_at"] = trainer.global_step
        self._written |= {path, last}
        if last:
            if self.last_model_path not in ("", last):
                self._progress["evicted"] = [*self._progress["evicted"], self.last_model_path]
            self.last_model_path = last
        if path:
            trainer.save_checkpoint(path, self.save_weights_only)
        if last and not (path and self._repeat(trainer, path, last)):
            trainer.save_checkpoint(last, self.save_weights_only)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def _repeat(self, trainer: Trainer, path: str, last: str) -> bool:
        """Copy or link the file at `path` to `last`, if it is a plain file on a disk of rank zero."""
        plain = trainer.strategy.broadcast(not places.is_remote(path) and os.path.isfile(path))
        if plain and trainer.is_global_zero:
            files.repeat(path, last, link=self.save_last == "link")
        trainer.strategy.barrier("ModelCheckpoint")
        return plain

    def _delete_evicted(self, trainer: Trainer) -> None:
        paths, self._progress["evicted"] = self._progress["evicted"], []
        for path in paths if trainer.is_global_zero else ():
            if self._is_own(path):
                places.remove(path)

    def _is_own(self, path: str) -> bool:
        """Whether `path` may be deleted: a checkpoint in this callback's folder, whatever a restored state says."""
        if not path.endswith(self.FILE_EXTENSION) or path in (*self.best_k_models, self.last_model_path):
            return False
        return names.is_inside(self.dirpath or "", path)

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write the kept files and their scores as YAML, by default to best_k_models.yaml in the same folder."""
        import yaml

        scores = {path: score.item() for path, score in self.best_k_models.items()}
        Path(filepath or places.join(self.dirpath or ".", "best_k_models.yaml")).write_text(yaml.safe_dump(scores))
