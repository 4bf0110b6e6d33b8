"""What users read on a trainer: metrics, counters, ranks, data, parts."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fulmen.callbacks.base import Callback, Checkpoint
from fulmen.loop.progress import Progress
from fulmen.loop.source import Source
from fulmen.options import Options
from fulmen.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

if TYPE_CHECKING:
    from fulmen.device import Accelerator
    from fulmen.logs import LogStore
    from fulmen.loop.account import Account
    from fulmen.loop.evaluate import EvaluateLoop
    from fulmen.loop.predict import PredictLoop
    from fulmen.loop.train import TrainLoop
    from fulmen.module import LightningModule
    from fulmen.optim import LRSchedulerConfig
    from fulmen.precision import Precision
    from fulmen.strategy.base import Strategy


def _of(path: str, doc: str = "") -> Any:
    """A property that reads what stands at a path, such as "strategy.global_rank"."""
    return property(attrgetter(path), doc=doc or None)


def _stage(stage: RunningStage) -> Any:
    """Whether this stage runs; set to True, it is taken to run."""

    def running(self: Readout) -> bool:
        return self.state.stage is not None and self.state.stage == stage

    def run(self: Readout, runs: bool) -> None:
        if runs:
            self.state.stage = stage
        elif self.state.stage == stage:
            self.state.stage = None

    return property(running, run, doc=f"Whether the trainer is {stage.name.lower().replace('_', ' ')}.")


def _limit(name: str) -> Any:
    """A limit of the fit: the loop's, which may be raised there, where the Trainer was given one."""

    def read(self: Readout) -> Any:
        given = getattr(self.options, name)
        return given if self.train_loop is None or given is None else getattr(self.train_loop, name)

    return property(read)


def _loaders(stage: str) -> Any:
    """The loaders of a stage as the user gave them, with the samplers of this rank."""
    return property(lambda self: self.sources[stage].raw if stage in self.sources else None)


def _counts(stage: str) -> Any:
    """How many batches of each loader a validation or a test takes."""

    def read(self: Readout) -> list[int | float]:
        loops = (self.evaluation, self.train_loop and self.train_loop.validation)
        return next((list(loop.counts) for loop in loops if loop is not None and loop.stage == stage), [])

    return property(read)


BUILT = ("hooks", "step", "_outputs")


class Readout:
    """The properties of Trainer; all of them answer before, during and after a run."""

    options: Options
    strategy: Strategy
    accelerator: Accelerator
    precision_plugin: Precision
    callbacks: list[Callback]
    loggers: list[Any]
    state: TrainerState
    progress: Progress
    logs: LogStore
    datamodule: Any
    ckpt_path: Any
    limit_train_batches: int | float
    accumulate_grad_batches: int
    _module: LightningModule | None
    _optimizers: list[Any]
    _scheduler_configs: list[LRSchedulerConfig]
    train_loop: TrainLoop | None
    evaluation: EvaluateLoop | None
    prediction: PredictLoop | None
    sources: dict[str, Source]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave behind what a run has built; they can start one of their own."""
        kept = {name: value for name, value in self.__dict__.items() if name not in BUILT}
        return kept | dict.fromkeys(("train_loop", "evaluation", "prediction", "_previous"))

    # ---- metrics

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """Everything logged, by name, as tensors on the device."""
        return self.logs.callback_metrics()

    @property
    def metrics_of_rank_zero(self) -> dict[str, Tensor]:
        """Rank zero's `callback_metrics`, in host memory: what every rank decides by, so that all decide alike.

        All ranks ask together. A resumed run has rank zero's best values on all of them, too.
        """
        if self.world_size == 1:
            return self.callback_metrics
        return self.strategy.broadcast({name: value.cpu() for name, value in self.callback_metrics.items()})

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """What loggers are sent, as tensors on the device."""
        return self.logs.logged_metrics()

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """What was logged with prog_bar=True, as numbers; reading waits for the device."""
        return self.logs.read_bar()

    def publish(self, values: dict[str, Any]) -> None:
        """Add ready values to `callback_metrics`."""
        self.logs.publish(values)

    # ---- counters

    global_step: int = _of("progress.steps", "Optimizer steps so far, over all optimizers.")
    current_epoch: int = _of("progress.epoch", "The running epoch, from 0; it goes up after the hooks of its end.")
    max_epochs: int | None = _limit("max_epochs")
    min_epochs: int | None = _limit("min_epochs")
    max_steps: int = _limit("max_steps")
    min_steps: int | None = _limit("min_steps")

    @property
    def is_last_batch(self) -> bool:
        """Whether this is the last batch of the epoch."""
        fetch = None if self.train_loop is None else self.train_loop.fetch
        return fetch is not None and fetch.is_last

    @property
    def validation_due(self) -> bool:
        """Whether a validation follows the batch that was just trained on."""
        loop = self.train_loop
        return loop is not None and loop.fetch is not None and loop.schedule.due

    @property
    def should_log_step(self) -> bool:
        """Whether the loggers get a row for the batch that was just trained on."""
        loop, every = self.train_loop, self.log_every_n_steps
        due = every > 0 and (self.progress.stepped % every == 0 or self.should_stop)
        return loop is not None and due and loop.step.stepping

    log_every_n_steps: int
    should_stop: bool

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps of the whole fit, for schedulers; loads the training data if that was not done yet."""
        loop = self.train_loop
        if loop is None:
            raise RuntimeError(
                "trainer.estimated_stepping_batches is known within fit only, from configure_optimizers on."
            )
        if not loop.source.loaded:
            loop.load_data()
        max_epochs, max_steps = loop.max_epochs, loop.max_steps
        if loop.num_batches == math.inf:
            return max_steps
        if max_epochs == -1:
            return math.inf if max_steps == -1 else max_steps
        epochs, accumulate = max(max_epochs, 1), self.accumulate_grad_batches
        if self.options.accumulate_across_epochs:
            estimate = math.ceil(loop.num_batches * epochs / accumulate)
        else:
            estimate = math.ceil(loop.num_batches / accumulate) * epochs
        return estimate if max_steps == -1 else min(max_steps, estimate)

    @property
    def account(self) -> Account | None:
        """Where the time of the last fit went, or goes."""
        return None if self.train_loop is None else self.train_loop.account

    # ---- data

    train_dataloader: Any = _loaders("train")
    val_dataloaders: Any = _loaders("val")
    test_dataloaders: Any = _loaders("test")
    predict_dataloaders: Any = _loaders("predict")
    num_val_batches: list[int | float] = _counts("validation")
    num_test_batches: list[int | float] = _counts("test")
    num_sanity_val_steps: int

    @property
    def num_training_batches(self) -> int | float:
        return self.train_loop.num_batches if self.train_loop is not None else float("inf")

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        most = self.num_sanity_val_steps
        return [count if most == -1 else min(count, most) for count in self.num_val_batches]

    @property
    def num_predict_batches(self) -> list[int | float]:
        return list(self.prediction.counts) if self.prediction is not None else []

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates."""
        return self.evaluation is not None and self.evaluation.enabled and self.sources["val"].exists

    # ---- where

    global_rank: int = _of("strategy.global_rank")
    local_rank: int = _of("strategy.local_rank")
    node_rank: int = _of("strategy.node_rank")
    world_size: int = _of("strategy.world_size")
    num_nodes: int = _of("strategy.num_nodes")
    is_global_zero: bool = _of("strategy.is_global_zero")
    device_ids: list[int] = _of("strategy.device_ids")
    distributed_sampler_kwargs: dict[str, Any] | None = _of("strategy.distributed_sampler_kwargs")
    default_root_dir: str = _of("options.default_root_dir")

    @property
    def num_devices(self) -> int:
        return len(self.device_ids)

    @property
    def log_dir(self) -> str | None:
        """Folder of the first logger's run, else default_root_dir; the same on every rank."""
        logger = self.logger
        if logger is None:
            return self.strategy.broadcast(self.default_root_dir)
        return self.strategy.broadcast(logger.log_dir or logger.save_dir)

    # ---- parts

    lightning_module: LightningModule = _of("_module")
    lr_scheduler_configs: list[LRSchedulerConfig] = _of("_scheduler_configs")
    precision: str = _of("precision_plugin.precision")
    scaler: Any = _of("precision_plugin.scaler")
    predict_loop: PredictLoop | None = _of("prediction")

    @property
    def fit_loop(self) -> Any:
        """Raise its max_epochs or max_steps to go on with another fit of the same module."""
        if self.train_loop is None:
            raise AttributeError("fit_loop")  # compat has one for programs that set its limits before the first fit
        return self.train_loop

    @property
    def model(self) -> Any:
        """The module as it is trained, possibly wrapped by the strategy."""
        return self.strategy.model if self.strategy.model is not None else self._module

    @property
    def optimizers(self) -> list[Any]:
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizers: list[Any]) -> None:
        self._optimizers = optimizers

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @logger.setter
    def logger(self, logger: Any) -> None:
        self.loggers = [] if not logger else [logger]

    def _callbacks(self, cls: type) -> list[Any]:
        return [callback for callback in self.callbacks if isinstance(callback, cls)]

    @property
    def checkpoint_callbacks(self) -> list[Checkpoint]:
        return self._callbacks(Checkpoint)

    @property
    def checkpoint_callback(self) -> Any:
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        from fulmen.callbacks.early_stopping import EarlyStopping

        return self._callbacks(EarlyStopping)

    @property
    def early_stopping_callback(self) -> Any:
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        return next((callback for callback in self.callbacks if hasattr(callback, "total_train_batches")), None)

    @property
    def val_check_batch(self) -> int | float | None:
        """Training batches from one validation to the next; None where a clock decides."""
        loop = self.train_loop
        return None if loop is None or loop.schedule.interval_s is not None else loop.schedule.every

    # ---- state

    @property
    def interrupted(self) -> bool:
        return self.state.status == TrainerStatus.INTERRUPTED

    received_sigterm: bool = False

    training = _stage(RunningStage.TRAINING)
    validating = _stage(RunningStage.VALIDATING)
    testing = _stage(RunningStage.TESTING)
    predicting = _stage(RunningStage.PREDICTING)
    sanity_checking = _stage(RunningStage.SANITY_CHECKING)

    @property
    def evaluating(self) -> bool:
        return self.state.stage is not None and self.state.stage.evaluating

    fn: TrainerFn | None = _of("state.fn")

    def init_module(self, empty_init: bool | None = None) -> Any:
        """A context in which a module is made on the device and in the precision of this trainer.

        `empty_init=True` leaves memory as it is, for weights that are loaded right after.
        """
        from contextlib import ExitStack

        stack = ExitStack()
        stack.enter_context(self.precision_plugin.init_context())
        stack.enter_context(self.strategy.root_device)
        if empty_init:
            stack.enter_context(EmptyInit())
        return stack


class EmptyInit(TorchFunctionMode):
    """Within it torch.nn.init leaves tensors as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))
