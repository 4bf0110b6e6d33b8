"""Save checkpoints while training: when, under which names, and which of them to keep."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fulmen.callbacks import filename as names
from fulmen.callbacks.filename import COUNTERS
from fulmen.callbacks.keeping import RANKING, Keeping
from fulmen.checkpoint import find
from fulmen.errors import CheckpointError, MisconfigurationException, SIGTERMException, nearest
from fulmen.warn import rank_zero_warn, warn_once

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer

MODES = ("min", "max")
UNWRITABLE = ("stop", "warn")


class ModelCheckpoint(Keeping):
    """Save the model as it trains, and keep the `save_top_k` best by the logged metric `monitor`.

        ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.2f}", save_top_k=3)

    Saves are due every `every_n_train_steps` optimizer steps, every `train_time_interval`, or else every
    `every_n_epochs` epochs: after their validation, or at their end (`save_on_train_epoch_end=True`). A file is ranked
    by a value that belongs to the weights in it: a save that is due before its value is known is made as soon as it is.
    Without `monitor` the newest file is kept. `save_last=True` keeps the newest save that was due as `last.ckpt`, among
    the best or not, and where none was due the end; "link" a symbolic link to the newest file. Names that other files
    have get `-v1`, `-v2` and so on.
    """

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
        *,
        keep_newest: int | None = None,
        keep_every_n_train_steps: int | None = None,
        async_save: bool | None = None,
        unwritable: str = "stop",
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
        self.keep_newest = keep_newest
        self.keep_every_n_train_steps = keep_every_n_train_steps
        self.async_save = async_save
        self.unwritable = unwritable
        self._check()
        self._forget_all()

    def _forget_all(self) -> None:
        """Begin without any file."""
        self.best_k_models: dict[str, Tensor] = {}
        self.best_model_path = ""
        self.best_model_score: Tensor | None = None
        self.kth_best_model_path = ""
        self.kth_value = self._worst_score = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        self.current_score: Tensor | None = None
        self.last_model_path = ""
        self._progress: dict[str, Any] = {
            "due": False,  # a save waits for the monitored value
            "source": None,  # where that value comes from: "step", "validation" or "epoch"
            "asked_at": 0,  # the step at which a save was last due
            "saved_at": 0,
            "validated_at": -1,
            "evicted": [],  # files that the newest one replaces, deleted once that is complete
            "newest": [],  # files that newer ones will replace
        }
        self._by_batch = self._train_time_interval is not None
        self._by_batch |= bool(self._every_n_train_steps or self.keep_every_n_train_steps)
        self._attends_batches = self._is_learning = False
        self._is_async, self._pending = bool(self.async_save), None
        self._checked_s, self._begun_at, self._look_at = 0.0, 0, 0
        self._run: str | None = None  # goes into every file, to know those of this run after a restart
        self._resumed_at: tuple[int, ...] | None = None
        self._written: set[str] = set()

    def _check(self) -> None:
        """Refuse arguments that make no sense."""
        steps, epochs, interval = self._every_n_train_steps, self._every_n_epochs, self._train_time_interval
        if interval is not None and not isinstance(interval, timedelta):
            raise TypeError(f"train_time_interval={interval!r} must be a datetime.timedelta.")
        top_k = self.save_top_k if isinstance(self.save_top_k, int) else -2
        ranked = self.monitor is not None or top_k != 1
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
            (
                self.keep_newest is not None and (ranked or self.keep_newest < 1),
                f"keep_newest={self.keep_newest} must be >= 1, and goes with neither monitor nor save_top_k: use one "
                "ModelCheckpoint for the newest files and one for the best.",
            ),
            (
                self.keep_every_n_train_steps is not None and (ranked or self.keep_every_n_train_steps < 1),
                f"keep_every_n_train_steps={self.keep_every_n_train_steps} must be >= 1, and goes with neither monitor "
                "nor save_top_k.",
            ),
            (
                self.unwritable not in UNWRITABLE,
                f"unwritable={self.unwritable!r} must be 'stop' or 'warn'.{nearest(self.unwritable, UNWRITABLE)}",
            ),
            (
                not isinstance(steps, int) or steps < 0,
                f"every_n_train_steps={steps!r} must be an int >= 0 (0 turns it off).",
            ),
            (
                not isinstance(epochs, int) or epochs < 0,
                f"every_n_epochs={epochs!r} must be an int >= 0 (0 turns it off).",
            ),
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
        self._written |= self._own_paths()

    # ---- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # before it, validate may have a log folder of its own
            self.dirpath = trainer.strategy.broadcast(self.dirpath or names.absolute(names.default_folder(trainer)))
            if trainer.is_global_zero and not trainer.fast_dev_run:
                names.prepare(self.dirpath)
        self._run, self._resumed_at, self._written = None, None, set()
        self._is_async = trainer.options.async_save if self.async_save is None else self.async_save

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._run = checkpoint.get("fulmen", {}).get("run")
        self._resumed_at = names.moment(checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault("fulmen", {}).setdefault("run", self._run)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run = self._run or trainer.strategy.broadcast(find.new_run())
        self._checked_s, self._begun_at, self._look_at = time.monotonic(), trainer.global_step, 0
        self._is_learning = self._progress["source"] is None and self.monitor not in (None, *trainer.callback_metrics)
        self._attends_batches = self._by_batch or self._is_learning
        last, own, loop = self.last_model_path, {self.best_model_path, *self.best_k_models}, trainer.train_loop
        if last and self.save_last and loop is not None and loop.same_run and trainer.ckpt_path in own - {last}:
            self._repeat(trainer, trainer.ckpt_path, last)  # a kill may have come between a save and this
        self._delete_evicted(trainer)  # and this

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._pending is not None:
            self._settle(trainer, wait=False)
        if not self._attends_batches:
            return
        if self._is_learning:
            self._learn(trainer, "step")
            self._is_learning, self._attends_batches = False, self._by_batch
        step, progress = trainer.global_step, self._progress
        if not self._by_batch or step in (0, progress["asked_at"], progress["saved_at"]) or trainer.fast_dev_run:
            return
        every, permanent = self._every_n_train_steps, self.keep_every_n_train_steps
        counted = any(step % n == 0 for n in (every, permanent) if n)
        if counted or (self._train_time_interval is not None and self._interval_is_over(trainer, step)):
            progress.update(due=True, asked_at=step)
            self._save_if_known(trainer, "batch")

    def _interval_is_over(self, trainer: Trainer, step: int) -> bool:
        """Rank zero's clock decides. Several ranks ask it less often the farther off the end is."""
        assert self._train_time_interval is not None
        if step < self._look_at:
            return False
        passed_s = max(time.monotonic() - self._checked_s, 1e-9)
        left_s = max(self._train_time_interval.total_seconds() - passed_s, 0)
        ahead = 1 if trainer.world_size == 1 else max(1, int((step - self._begun_at) / passed_s * left_s / 2))
        over, self._look_at = trainer.strategy.broadcast((left_s == 0, step + min(ahead, 1000)))
        if over:
            self._checked_s, self._begun_at = self._checked_s + passed_s, step
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
            message = (
                f"ModelCheckpoint(monitor={self.monitor!r}): no metric of that name was logged."
                f"{nearest(self.monitor, metrics)} Metrics available: {', '.join(map(repr, metrics))}. "
                f"Log it with self.log({self.monitor!r}, value)."
            )
            if trainer.limit_val_batches != 0 and not self._by_batch:
                raise MisconfigurationException(message)
            warn_once(f"{message} Until then {'only last.ckpt' if self.save_last is True else 'no file'} is saved.")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where no save was due before, or last.ckpt is all there is, it is of the end."""
        self._settle(trainer)
        saved_at = self._progress["saved_at"]
        unsaved = trainer.global_step not in (0, saved_at) and (saved_at == 0 or self.save_top_k == 0)
        if self.save_last and unsaved and self._runs(trainer):
            self._progress["due"] = False
            self._put_last(trainer, self._candidates(trainer))
            self._settle(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        try:
            self._settle(trainer)
        except Exception as failure:  # the exception that ends the run is the one to raise
            rank_zero_warn(str(failure))
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
        elif moment == "batch" and not {*names.fields(self.CHECKPOINT_NAME_LAST)} - {*COUNTERS}:
            self._put_last(trainer, self._candidates(trainer))
