"""The Trainer: builds the parts and runs the verbs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch

from fulmen import device, hooks, optim, options, parts, verify
from fulmen import precision as precisions
from fulmen import strategy as strategies
from fulmen.checkpoint import state
from fulmen.datamodule import LightningDataModule
from fulmen.errors import CheckpointError, MisconfigurationException
from fulmen.lifecycle import DataHooks
from fulmen.logs import LogStore
from fulmen.loop.evaluate import EvaluateLoop
from fulmen.loop.predict import PredictLoop
from fulmen.loop.progress import Progress
from fulmen.loop.results import show
from fulmen.loop.source import Source
from fulmen.loop.step import AutomaticStep, ManualStep
from fulmen.loop.train import TrainLoop
from fulmen.module import LightningModule
from fulmen.readout import Readout
from fulmen.states import RunningStage, TrainerFn, TrainerState, TrainerStatus
from fulmen.strategy.parallel import ParallelStrategy
from fulmen.warn import rank_zero_info, rank_zero_warn

LIVE = (
    *options.LIMITS, "overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "fast_dev_run",
    "reload_dataloaders_every_n_epochs", "barebones", "enable_autolog_hparams",
)  # fmt: skip
"""Options that stand as plain attributes on the trainer, where callbacks and users change them between epochs."""


class Trainer(Readout):
    """Runs a LightningModule: fit, validate, test, predict.

    trainer = L.Trainer(max_epochs=5)
    trainer.fit(model, train_loader, val_loader)
    """

    val_check_interval: int | float | str | timedelta | dict[str, int]
    check_val_every_n_epoch: int | None
    gradient_clip_val: int | float | None
    gradient_clip_algorithm: str | None
    overfit_batches: int | float
    limit_val_batches: int | float
    limit_test_batches: int | float
    limit_predict_batches: int | float
    fast_dev_run: bool | int
    reload_dataloaders_every_n_epochs: int
    barebones: bool
    enable_autolog_hparams: bool

    def __init__(
        self,
        *,
        accelerator: Any = "auto",
        strategy: Any = "auto",
        devices: Any = "auto",
        num_nodes: int = 1,
        precision: Any = None,
        logger: Any = None,
        callbacks: Any = None,
        fast_dev_run: bool | int = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Any = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Any = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: Any = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
        **others: Any,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name in options.NAMES}
        if others or _spelled_old(arguments):
            from fulmen.compat.arguments import translate

            arguments = translate({**arguments, **others}, set(options.NAMES))
            for name in arguments:
                if name not in options.NAMES:
                    raise options.unknown(name)
        self.options = options.check(arguments)
        self.state = TrainerState()
        self.should_stop = False
        for name in LIVE:
            setattr(self, name, getattr(self.options, name))
        self._engine()
        self.loggers = parts.loggers(self.options)
        self.callbacks = parts.callbacks(self.options)
        verify.callbacks(self.callbacks)
        parts.set_determinism(self.options)
        self._reset(None, None)

    def _engine(self) -> None:
        """Choose the devices, the strategy and the precision; nothing is started."""
        chosen, plugins = self.options, parts.plugins(self.options)
        self.accelerator, devices = device.choose(chosen.accelerator, chosen.devices)
        self.strategy = strategies.choose(chosen.strategy, self.accelerator, devices, chosen.num_nodes)
        if "checkpoint_io" in plugins:
            self.strategy.checkpoint_io = plugins["checkpoint_io"]
        if "environment" in plugins and isinstance(self.strategy, ParallelStrategy):
            self.strategy.cluster_environment = plugins["environment"]
        own = plugins.get("precision") or self.strategy.precision
        self.precision_plugin = precisions.choose(chosen.precision, self.strategy.root_device.type, own)

    def _reset(self, module: LightningModule | None, datamodule: Any) -> None:
        """What belongs to one run of one verb."""
        self._module, self.datamodule = module, datamodule
        self.logs = LogStore(self.strategy)
        self.sources: dict[str, Source] = {}
        self._optimizers, self._scheduler_configs = [], []
        self.train_loop: TrainLoop | None = None
        self.evaluation: EvaluateLoop | None = None
        self.prediction: PredictLoop | None = None
        self.ckpt_path: Any = None
        self.received_sigterm = False

    progress = Progress()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from fulmen.compat.attributes import trainer_attribute

        return trainer_attribute(self, name)

    # ---- the verbs

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: Any = None,
        weights_only: bool | None = None,
        **others: Any,
    ) -> None:
        """Train the model.

        Args:
            model: a LightningModule, compiled or not.
            train_dataloaders: an iterable of batches, a dict or list of them, or a LightningDataModule.
            val_dataloaders: an iterable of batches, or a list or dict of them.
            datamodule: the data, in place of the loaders.
            ckpt_path: go on from this checkpoint: a path, a URL, "last" or "best".
            weights_only: False lets a checkpoint that you trust run code while it is loaded.
        """
        for name, value in verify.arguments("fit", others, ("model", *FIT)).items():
            if name == "train_dataloaders":
                train_dataloaders = value
            elif name == "val_dataloaders":
                val_dataloaders = value
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        module = verify.module_of(model, "fit")
        verify.datamodule(datamodule, (train_dataloaders, val_dataloaders))
        self._start(TrainerFn.FITTING, module, datamodule)
        self.sources = {
            "train": Source("train", train_dataloaders, datamodule, module),
            "val": Source("val", val_dataloaders, datamodule, module),
        }
        verify.fit(self, module, *self.sources.values())
        self._guard(lambda: self._fit(ckpt_path, weights_only))

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: Any = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
        **others: Any,
    ) -> list[dict[str, float]]:
        """Run validation_step over the validation data; a dict of logged values for each loader.

        Without a model: the last one, with the weights of its "best" checkpoint if there is one.
        """
        return self._evaluate("validate", model, dataloaders, ckpt_path, verbose, datamodule, weights_only, others)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: Any = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
        **others: Any,
    ) -> list[dict[str, float]]:
        """Run test_step over the test data; arguments and result as `validate`."""
        return self._evaluate("test", model, dataloaders, ckpt_path, verbose, datamodule, weights_only, others)

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: Any = None,
        weights_only: bool | None = None,
        **others: Any,
    ) -> Any:
        """Run predict_step over the data; a list of what it returned, with several loaders a list for each."""
        known = ("model", "dataloaders", "datamodule", "return_predictions", "ckpt_path", "weights_only")
        dataloaders = verify.arguments("predict", others, known).get("dataloaders", dataloaders)
        dataloaders, datamodule, module, ckpt_path = self._given("predict", model, dataloaders, datamodule, ckpt_path)
        self._start(TrainerFn.PREDICTING, module, datamodule)
        self.sources = {"predict": Source("predict", dataloaders, self.datamodule, module)}
        verify.prediction(self, module, self.sources["predict"])
        return self._guard(lambda: self._predict(return_predictions is not False, ckpt_path, weights_only))

    def _evaluate(
        self, verb: str, model: Any, dataloaders: Any, ckpt_path: Any, verbose: bool, datamodule: Any, weights_only: Any,
        others: dict[str, Any],
    ) -> list[dict[str, float]]:  # fmt: skip
        dataloaders = verify.arguments(verb, others, ("model", *EVALUATE)).get("dataloaders", dataloaders)
        dataloaders, datamodule, module, ckpt_path = self._given(verb, model, dataloaders, datamodule, ckpt_path)
        stage = "val" if verb == "validate" else "test"
        self._start(TrainerFn(verb), module, datamodule)
        self.sources = {stage: Source(stage, dataloaders, self.datamodule, module)}
        verify.evaluation(self, module, self.sources[stage], verb)
        results = self._guard(lambda: self._run_evaluation(stage, ckpt_path, weights_only))
        if verbose and self.is_global_zero and results is not None:
            show(verb, results)
        return results

    def _given(self, verb: str, model: Any, dataloaders: Any, datamodule: Any, ckpt_path: Any) -> tuple[Any, ...]:
        """The model and data of this call; without a model those of the last run."""
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        verify.datamodule(datamodule, (dataloaders,))
        if model is not None:
            return dataloaders, datamodule, verify.module_of(model, verb), ckpt_path
        if self._module is None:
            raise MisconfigurationException(f"trainer.{verb} was called without a model before any fit; pass model=...")
        if datamodule is None and dataloaders is None:
            datamodule = self.datamodule
        if ckpt_path is None and any(getattr(c, "best_model_path", "") for c in self.checkpoint_callbacks):
            rank_zero_warn(f"trainer.{verb} was called without a model: it takes the best weights of the last fit.")
            ckpt_path = "best"
        return dataloaders, datamodule, self._module, ckpt_path

    # ---- how a verb runs

    def _start(self, fn: TrainerFn, module: LightningModule, datamodule: Any) -> None:
        self._reset(module, datamodule)
        stages = {TrainerFn.FITTING: RunningStage.TRAINING}
        self.state = TrainerState(TrainerStatus.RUNNING, fn, stages.get(fn) or RunningStage(fn.value))
        self.should_stop = False
        module.trainer = self
        if datamodule is not None:
            datamodule.trainer = self

    def _guard(self, work: Callable[[], Any]) -> Any:
        """Run the work in all processes; whatever ends it, hooks and loggers are told."""
        try:
            result = self.strategy.launch(work)
            self.state.status = TrainerStatus.FINISHED
            return result
        except BaseException as error:
            self.state.status = TrainerStatus.INTERRUPTED
            self._failed(error)
            raise
        finally:
            self.logs.enter(None)
            if self._module is not None:
                self._module.__dict__["_logs"] = None
                self._module.__dict__.pop("log", None)
            self.state.stage = None

    def _failed(self, error: BaseException) -> None:
        for hook in self.hooks.on_exception if "hooks" in self.__dict__ else ():
            hook(error)
        if self.datamodule is not None:
            self.datamodule.on_exception(error)
        for logger in self.loggers:
            logger.finalize("failed")

    def _fit(self, ckpt_path: Any, weights_only: bool | None) -> None:
        module = self._setup("fit")
        self.progress = Progress()
        path, checkpoint = self._load_checkpoint(ckpt_path, weights_only)
        self.strategy.setup(module, self.precision_plugin, training=True)
        self.evaluation = EvaluateLoop(self, self.sources["val"], "validation")
        self.evaluation.inside_fit = True
        self._build_loop(module)
        self._begin(module)
        if checkpoint is not None:
            state.restore_training(self, checkpoint, path)
            rank_zero_info(f"Restored all states from {path}")
            del checkpoint
        self.strategy.barrier()
        with torch.autograd.set_detect_anomaly(True) if self.options.detect_anomaly else nullcontext():
            self._sanity_check()
            assert self.train_loop is not None
            torch.set_grad_enabled(True)
            self.train_loop.run()
        for hook in self.hooks.on_fit_end:
            hook()
        self._end("fit")

    def _build_loop(self, module: LightningModule) -> None:
        """The step, the schedulers and the training loop; configure_optimizers may ask the trainer for its estimates."""
        assert self.evaluation is not None
        loop = self.train_loop = TrainLoop(self, self.sources["train"], self.evaluation, self.progress)
        self._optimizers, self._scheduler_configs, frequencies = optim.build(module)
        self.strategy.setup_optimizers(self._optimizers)
        kind: Any = AutomaticStep if module.automatic_optimization else ManualStep
        if kind is AutomaticStep and len(self._optimizers) > 1:
            from fulmen.compat.optimizers import step_for

            kind = step_for(module, self._optimizers, frequencies)
        self.step = kind(module, self._optimizers, self.strategy, self.precision_plugin, self.progress)
        self.step.attach(self.hooks)
        own = self.hooks.lr_scheduler_step
        schedulers = optim.Schedulers(self._scheduler_configs, own[0] if own else None, lambda: self.callback_metrics)
        loop.take(self.step, schedulers)

    def _setup(self, stage: str) -> LightningModule:
        """Callbacks, data preparation, setup hooks: the same for all verbs."""
        module, datamodule = self.lightning_module, self.datamodule
        self.callbacks = parts.merge(self.callbacks, module.configure_callbacks())
        verify.callbacks(self.callbacks)
        self.hooks = hooks.build(self, module, self.callbacks)
        for callback in self.callbacks:
            callback.__dict__["log"], callback.__dict__["log_dict"] = module.log, module.log_dict
        module.__dict__["_logs"] = self.logs
        if self.options.barebones:
            module.__dict__["log"] = _silent
        self._prepare_data()
        self.strategy.barrier()
        if datamodule is not None:
            datamodule.setup(self.state.fn)
        for hook in (*self.hooks.setup, *self.hooks.module_setup):
            hook(self.state.fn)
        self.strategy.barrier()
        with self.precision_plugin.init_context():
            for hook in (*self.hooks.configure_model, *self.hooks.configure_sharded_model):
                hook()
        return module

    def _prepare_data(self) -> None:
        """prepare_data in one process of each node (or of all), the others wait."""
        for owner in (self.datamodule, self._module):
            if owner is not None:
                first = self.local_rank == 0 if owner.prepare_data_per_node else self.is_global_zero
                if first:
                    owner.prepare_data()

    def _begin(self, module: LightningModule) -> None:
        """The last that comes before a loop runs."""
        if self.state.fn == TrainerFn.FITTING:
            for hook in self.hooks.on_fit_start:
                hook()
        self._log_hyperparameters(module)
        for logger in self.loggers:
            logger.log_graph(module)
            logger.save()

    def _log_hyperparameters(self, module: LightningModule) -> None:
        if not self.loggers or not self.enable_autolog_hparams:
            return
        merged: dict[str, Any] = {}
        for owner in (self.datamodule, module):
            if owner is not None and owner._log_hyperparams:
                for name, value in dict(owner.hparams_initial).items():
                    if name in merged and merged[name] is not value and merged[name] != value:
                        raise MisconfigurationException(
                            f"The module and the datamodule both have the hyperparameter {name!r}, with different values; "
                            "rename one, or save it with save_hyperparameters(logger=False)."
                        )
                    merged[name] = value
        for logger in self.loggers:
            if merged:
                logger.log_hyperparams(merged)

    def _end(self, stage: str) -> None:
        self.strategy.teardown()
        if self.datamodule is not None:
            self.datamodule.teardown(self.state.fn)
        for hook in (*self.hooks.teardown, *self.hooks.module_teardown):
            hook(self.state.fn)
        for logger in self.loggers:
            logger.finalize("success")

    def _sanity_check(self) -> None:
        """A few validation batches before training, so that mistakes show early; leaves no trace."""
        loop, source = self.evaluation, self.sources["val"]
        assert loop is not None
        if not self.num_sanity_val_steps or not loop.enabled or not source.exists or self.progress.batches:
            return
        self.state.stage = RunningStage.SANITY_CHECKING
        loop.sanity = True
        from fulmen.seed import isolate_rng

        with isolate_rng():
            for hook in self.hooks.on_sanity_check_start:
                hook()
            loop.run()
            for hook in self.hooks.on_sanity_check_end:
                hook()
        self.logs.forget()
        loop.sanity = False
        self.state.stage = RunningStage.TRAINING

    def _run_evaluation(self, stage: str, ckpt_path: Any, weights_only: bool | None) -> list[dict[str, float]]:
        module = self._setup(str(self.state.fn))
        self._load_checkpoint(ckpt_path, weights_only)
        self.strategy.setup(module, self.precision_plugin, training=False)
        self._begin(module)
        self.evaluation = EvaluateLoop(self, self.sources[stage], "validation" if stage == "val" else "test")
        self.evaluation.load_data()
        results = self.evaluation.run()
        self._end(str(self.state.fn))
        return results

    def _predict(self, keep: bool, ckpt_path: Any, weights_only: bool | None) -> Any:
        module = self._setup("predict")
        self._load_checkpoint(ckpt_path, weights_only)
        self.strategy.setup(module, self.precision_plugin, training=False)
        self._begin(module)
        self.prediction = PredictLoop(self, self.sources["predict"], keep)
        predictions = self.prediction.run()
        self._end("predict")
        return predictions

    # ---- what loops ask for

    @property
    def val_source(self) -> Source:
        return self.sources["val"]

    def refresh_hooks(self) -> None:
        """Rebuild the hook table if the list of callbacks was changed."""
        if self.hooks.callbacks != self.callbacks:
            for callback in self.callbacks:
                callback.__dict__["log"] = self.lightning_module.log
            self.hooks = hooks.build(self, self.lightning_module, self.callbacks)
            self.step.attach(self.hooks)

    def train_mode(self) -> None:
        """Gradients on; validation puts each part of the model back into its mode by itself."""
        torch.set_grad_enabled(True)

    def preparation(self, stage: str, dataloader_idx: int = 0) -> Callable[[Any], Any] | None:
        """What is done to each batch before a step sees it; None where that is nothing."""
        owners = {}
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            for owner, base in ((self.datamodule, DataHooks), (self._module, LightningModule)):
                if owner is not None and hooks.overrides(owner, name, base):
                    owners[name] = getattr(owner, name)
                    break
        convert = self.precision_plugin.convert_input if self.precision_plugin.converts_input else None
        if not owners and convert is None:
            return None if self.strategy.root_device.type == "cpu" else self.strategy.to_device
        before, move, after = (
            owners.get(n) for n in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
        )

        def prepare(batch: Any) -> Any:
            if convert is not None:
                batch = convert(batch)
            if before is not None:
                batch = before(batch, dataloader_idx)
            if move is not None:
                batch = move(batch, self.strategy.root_device, dataloader_idx)
            else:
                batch = self.strategy.to_device(batch)
            return batch if after is None else after(batch, dataloader_idx)

        return prepare

    # ---- checkpoints

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """Write a checkpoint; every rank must call it, and each returns when the file is whole.

        Args:
            filepath: path or URL.
            weights_only: without optimizers, callbacks and loops; for inference.
            storage_options: options of the file system of a URL.
        """
        if self._module is None:
            raise AttributeError("trainer.save_checkpoint needs a model; call it after fit, validate, test or predict.")
        checkpoint = state.gather(self, bool(weights_only))
        self.strategy.save(checkpoint, filepath, storage_options)
        self.strategy.barrier()

    def _load_checkpoint(self, ckpt_path: Any, weights_only: bool | None) -> tuple[Any, Any]:
        """Read what ckpt_path means and restore all but the training's own state."""
        path = self.ckpt_path = self._resolve(ckpt_path)
        if path is None:
            return None, None
        rank_zero_info(f"Restoring from {path}")
        checkpoint = state.read(self, path, weights_only)
        state.restore_module(self, checkpoint, path)
        state.restore_callbacks(self, checkpoint)
        return path, checkpoint

    def _resolve(self, ckpt_path: Any) -> Any:
        if ckpt_path == "best":
            callback = self.checkpoint_callback
            best = getattr(callback, "best_model_path", "")
            if not best:
                raise MisconfigurationException(
                    "ckpt_path='best', but no checkpoint was kept: configure a ModelCheckpoint (monitor=...) and fit first, or "
                    "give the path of a file."
                )
            return best
        if ckpt_path == "last":
            found = [c.find_last(self) for c in self.checkpoint_callbacks if hasattr(c, "find_last")]
            path = next((p for p in found if p), None)
            if path is None:
                rank_zero_warn(
                    "ckpt_path='last', but there is no checkpoint yet (save_last=True keeps one): from scratch."
                )
            return path
        if ckpt_path is not None and not isinstance(ckpt_path, str) and not hasattr(ckpt_path, "__fspath__"):
            raise CheckpointError(f"ckpt_path={ckpt_path!r} must be a path, a URL, 'best' or 'last'.")
        return ckpt_path

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print from one process of each machine, beside the progress bar."""
        if self.local_rank == 0:
            bar = self.progress_bar_callback
            print(*args, **kwargs) if bar is None else bar.print(*args, **kwargs)


FIT = ("train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only")
EVALUATE = ("dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only")


def _spelled_old(arguments: dict[str, Any]) -> bool:
    """Values of today's arguments that only older programs give."""
    return (
        arguments["max_steps"] is None
        or isinstance(arguments["accumulate_grad_batches"], dict)
        or arguments["profiler"] is True
        or arguments["accelerator"] in ("ddp", "ddp_cpu", "ddp_spawn", "dp", "ddp2", "horovod")
        or arguments["strategy"] in ("dp", "ddp2", "horovod", None)
    )


def _silent(*args: Any, **kwargs: Any) -> None:
    """self.log under barebones."""
    from fulmen.warn import warn_once

    warn_once("self.log does nothing with barebones=True.")
