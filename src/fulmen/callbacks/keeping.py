"""The files of ModelCheckpoint: their names and ranks, how they are written, and which of them go again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from fulmen.callbacks import filename as names
from fulmen.callbacks.base import Checkpoint
from fulmen.callbacks.filename import COUNTERS
from fulmen.checkpoint import files, places, state
from fulmen.checkpoint.writer import Save, snapshot
from fulmen.strategy.base import Strategy
from fulmen.warn import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

RANKING = ("best_model_score", "current_score", "kth_best_model_path", "kth_value", "last_model_path")


class Pending(NamedTuple):
    """A save under way: what to take back if it fails, and what to say if not."""

    save: Save
    before: dict[str, Any]
    message: str


class Keeping(Checkpoint):
    """What ModelCheckpoint does with its files; when, it says itself."""

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    dirpath: str | None
    filename: str | None
    monitor: str | None
    mode: str
    verbose: bool
    save_last: bool | Literal["link"] | None
    save_top_k: int
    save_weights_only: bool
    auto_insert_metric_name: bool
    keep_newest: int | None
    keep_every_n_train_steps: int | None
    unwritable: str
    best_k_models: dict[str, Tensor]
    best_model_path: str
    best_model_score: Tensor | None
    kth_best_model_path: str
    kth_value: Tensor
    current_score: Tensor | None
    last_model_path: str
    _progress: dict[str, Any]
    _worst_score: Tensor
    _enable_version_counter: bool
    _run: str | None
    _resumed_at: tuple[int, ...] | None
    _written: set[str]
    _is_async: bool
    _pending: Pending | None

    def _candidates(self, trainer: Trainer, logged: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What files can be ranked by and named after, of what this rank has logged or of what is given."""
        metrics = dict(trainer.callback_metrics if logged is None else logged)
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
        self._settle(trainer)
        metrics = self._candidates(trainer, trainer.metrics_of_rank_zero)
        if self.save_top_k and self.monitor is None:
            self._put(trainer, metrics, self._follow)
        elif self.save_top_k and self.check_monitor_top_k(trainer, metrics[self.monitor]):  # type: ignore[index]
            self._update_best_and_save(metrics[self.monitor], trainer, metrics)  # type: ignore[index]
        else:
            self._put_last(trainer, metrics)

    def _put_last(self, trainer: Trainer, metrics: dict[str, Tensor]) -> None:
        """last.ckpt by itself: what a killed run goes on from need not be among the best."""
        self._settle(trainer)
        if self.save_last is True or (self.save_last and not self.save_top_k):
            self._put(trainer, metrics, lambda *_: ("", []))

    # The next three are called where what they do is due, so that subclasses may do more, or otherwise.

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._put(trainer, monitor_candidates, self._enter)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        trainer.save_checkpoint(filepath, self.save_weights_only)

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        trainer.strategy.remove_checkpoint(filepath)

    def _put(self, trainer: Trainer, metrics: dict[str, Tensor], place: Callable[..., tuple[str, list[str]]]) -> None:
        """Save at the place that there is for the file among the others, and delete those that it drives out."""
        before = self.state_dict()
        path, evicted = place(trainer, metrics)
        self._progress["evicted"] = [old for old in evicted if old not in ("", path)]
        try:
            save = self._write(trainer, path, self._next_last(trainer), self._is_async)
        except BaseException as error:
            self._forget(before, error)
            return
        score = "" if self.current_score is None else f" with {self.monitor}={self.current_score.item():.5f}"
        where = f"Epoch {trainer.current_epoch}, global step {trainer.global_step}"
        message = f"{where}: saved {path or self.last_model_path!r}{score}"
        if save is None:
            self._complete(trainer, message)
        else:
            self._pending = Pending(save, before, message)

    def _settle(self, trainer: Trainer, wait: bool = True) -> None:
        """Deal with the outcome of the save under way, once it is over."""
        if self._pending is None or not (wait or self._pending.save.is_over):
            return
        pending, self._pending = self._pending, None
        try:
            pending.save.finish()
        except BaseException as error:
            self._forget(pending.before, error)
        else:
            self._complete(trainer, pending.message)

    def _complete(self, trainer: Trainer, message: str) -> None:
        """The newer file is whole: the older ones may go, and loggers may have it."""
        self._delete_evicted(trainer)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)
        if self.verbose:
            rank_zero_info(message)

    def _forget(self, before: dict[str, Any], error: BaseException) -> None:
        """The newer file is not there: take back what was noted of it. The run ends, unless that is not wanted."""
        for name in (*RANKING, "best_model_path", "best_k_models"):
            setattr(self, name, before[name])
        self._progress.update({name: before["progress"][name] for name in ("saved_at", "evicted", "newest")})
        if self.unwritable != "warn" or not isinstance(error, OSError):
            raise error
        rank_zero_warn(f"{error} Training goes on (unwritable='warn'), and the next save is made when it is due.")

    def _follow(self, trainer: Trainer, metrics: dict[str, Tensor]) -> tuple[str, list[str]]:
        """Put a new file behind the newest ones. Returns its path, and those of the ones that have to go."""
        newest = self._progress["newest"] or [self.best_model_path]
        most, permanent = self.keep_newest or self.save_top_k, self.keep_every_n_train_steps
        stays = permanent is not None and trainer.global_step % permanent == 0
        evicted = [] if stays or most == -1 else newest[: len(newest) - most + 1]
        path = self.best_model_path = self._free_path(trainer, metrics, evicted)
        if not stays and most != -1:
            self._progress["newest"] = [old for old in newest if old and old not in evicted] + [path]
        return path, evicted

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
        counts = trainer.is_global_zero and self._enable_version_counter
        while counts and path not in own and self._is_taken(trainer, path):
            path = self.format_checkpoint_name(metrics, filename, ver=version)
            version += 1
        return trainer.strategy.broadcast(path)

    def _is_taken(self, trainer: Trainer, path: str) -> bool:
        if not places.exists(path) or self._resumed_at is None:
            return places.exists(path)
        known = any(path in c._own_paths() for c in trainer.checkpoint_callbacks if isinstance(c, Keeping))
        return known or not names.is_overtaken(path, self._run, self._resumed_at)

    def _own_paths(self) -> set[str]:
        return {*self._written, *self.best_k_models, self.best_model_path, self.last_model_path}

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Trainer) -> bool:
        """Whether rank zero finds a file there; every rank must ask."""
        return trainer.strategy.broadcast(trainer.is_global_zero and places.exists(filepath))

    def find_last(self, wanted: Callable[[dict[str, Any]], bool] | None) -> str | None:
        """What ckpt_path="last" means: of the whole files in the folder the one of the latest step.

        Files older than last.ckpt, where there is one, may be another run's and count only if no other is whole.
        """
        if self.dirpath is None:
            return None
        prefix = self.CHECKPOINT_NAME_LAST.partition("{")[0] or "last"
        return files.newest_good(self.dirpath, f"{prefix}*{self.FILE_EXTENSION}", wanted)

    def _next_last(self, trainer: Trainer) -> str:
        if not self.save_last:
            return ""
        return self._free_path(trainer, self._candidates(trainer), [self.last_model_path], self.CHECKPOINT_NAME_LAST)

    def _write(self, trainer: Trainer, path: str, last: str, beside: bool = False) -> Save | None:
        """Save under `path` and `last` (one may be empty). What is saved of this callback is its state afterwards.

        With `beside` rank zero returns while the files are written.
        """
        folder = self.dirpath or ""
        if trainer.is_global_zero and not (places.is_remote(folder) or places.exists(folder)):
            rank_zero_warn(f"The folder {folder!r} has vanished, with the checkpoints in it. It is made anew.")
        if not self._progress["due"]:  # else the ranked file of this moment is still to come
            self._progress["saved_at"] = trainer.global_step
        self._written |= {path, last}
        if last:
            if self.last_model_path not in ("", last):
                self._progress["evicted"] = [*self._progress["evicted"], self.last_model_path]
            self.last_model_path = last
        if beside and not self._saves_otherwise():
            return self._begin(trainer, path, last)
        if path:
            self._save_checkpoint(trainer, path)
        if last and not (path and self._repeat(trainer, path, last)):
            self._save_checkpoint(trainer, last)
        return None

    def _begin(self, trainer: Trainer, path: str, last: str) -> Save | None:
        checkpoint = state.gather(trainer, self.save_weights_only)
        if not trainer.is_global_zero:
            return None
        copy, link = snapshot(checkpoint), self.save_last == "link"

        def work() -> None:
            if path:
                Strategy.save(trainer.strategy, copy, path)
            if last and path and not places.is_remote(path) and os.path.isfile(path):
                files.repeat(path, last, link)
            elif last:
                Strategy.save(trainer.strategy, copy, last)

        return Save(work)

    def _repeat(self, trainer: Trainer, path: str, last: str) -> bool:
        """Copy or link the file at `path` to `last`, if it is a plain file on a disk of rank zero."""
        if self._saves_otherwise() and self.save_last != "link":
            return False
        plain = trainer.strategy.broadcast(not places.is_remote(path) and os.path.isfile(path))
        if plain and trainer.is_global_zero:
            files.repeat(path, last, link=self.save_last == "link")
        trainer.strategy.barrier("ModelCheckpoint")
        return plain

    def _delete_evicted(self, trainer: Trainer) -> None:
        paths, self._progress["evicted"] = self._progress["evicted"], []
        for path in paths if trainer.is_global_zero else ():
            if self._is_own(path):
                self._remove_checkpoint(trainer, path)

    def _saves_otherwise(self) -> bool:
        return type(self)._save_checkpoint is not Keeping._save_checkpoint

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
