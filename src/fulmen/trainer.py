"""The Trainer: builds the parts and runs the verbs."""

from __future__ import annotations

import itertools
import os
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from fulmen import device, options, parts, verify
from fulmen import strategy as strategies
from fulmen.checkpoint import state
from fulmen.datamodule import LightningDataModule
from fulmen.errors import MisconfigurationException
from fulmen.loop.source import Source
from fulmen.module import LightningModule
from fulmen.run import Run
from fulmen.states import TrainerFn, TrainerState
from fulmen.warn import rank_zero_warn

LIVE = (
    *options.LIMITS, "overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "fast_dev_run",
    "reload_dataloaders_every_n_epochs", "barebones", "enable_autolog_hparams",
)  # fmt: skip
"""Options that stand as plain attributes on the trainer, where callbacks and users change them between epochs."""


class Trainer(Run):
    """Runs a LightningModule: fit, validate, test, predict.

    trainer = L.Trainer(max_epochs=5)
    trainer.fit(model, train_loader, val_loader)
    """

    _changeable = LIVE
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
        nonfinite: str | None = None,
        resume: str | None = None,
        async_save: bool = False,
        accumulate_across_epochs: bool = False,
        compile: bool | dict[str, Any] | None = None,
        cuda_graph: bool = False,
        **others: Any,
    ) -> None:
        self.options = options.check(_todays(locals(), others))
        self.state, self.should_stop = TrainerState(), False
        for name in LIVE:
            setattr(self, name, getattr(self.options, name))
        self.accelerator, self.strategy, self.precision_plugin = parts.engine(self.options)
        self.loggers, self.callbacks = parts.loggers(self.options), parts.callbacks(self.options)
        self._reset(None, None)
        verify.callbacks(self.callbacks, self)

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

        SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and Ctrl-C end it behind the running step: a checkpoint is saved where
        ckpt_path="last" finds it, and the program's status is 128 + the signal's number.
        """
        for name, value in verify.arguments("fit", others, ("model", *FIT)).items():
            if name == "train_dataloaders":
                train_dataloaders = value
            elif name == "val_dataloaders":
                val_dataloaders = value
        if isinstance(train_dataloaders, LightningDataModule) and datamodule is None:
            train_dataloaders, datamodule = None, train_dataloaders
        module = verify.module_of(model, "fit")
        verify.datamodule(datamodule, (train_dataloaders, val_dataloaders))
        self._start(TrainerFn.FITTING, module, datamodule)
        self.sources = {
            "train": Source("train", train_dataloaders, datamodule, module),
            "val": Source("val", val_dataloaders, datamodule, module),
        }
        verify.fit(self, module, *self.sources.values())
        self.fit_number = next(_fits)
        if (captured := os.environ.get("FULMEN_REPLAY")) is not None:
            from fulmen.loop.replay import replay

            replay(self, captured)
            return
        stopped = self._guard(partial(self._fit, ckpt_path, weights_only))
        if stopped is not None:
            raise stopped

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
        return_predictions: bool | Literal["all"] | None = None,
        ckpt_path: Any = None,
        weights_only: bool | None = None,
        **others: Any,
    ) -> Any:
        """Run predict_step over the data; a list of what it returned, with several loaders a list for each.

        Args:
            model, dataloaders, datamodule, ckpt_path, weights_only: as for `validate`.
            return_predictions: False keeps nothing and returns None. With several processes each returns its own;
                "all" has every one return those of all, in host memory, in the order of one process.
        """
        known = ("model", "dataloaders", "datamodule", "return_predictions", "ckpt_path", "weights_only")
        dataloaders = verify.arguments("predict", others, known).get("dataloaders", dataloaders)
        dataloaders, datamodule, module, ckpt_path = self._given("predict", model, dataloaders, datamodule, ckpt_path)
        self._start(TrainerFn.PREDICTING, module, datamodule)
        self.sources = {"predict": Source("predict", dataloaders, self.datamodule, module, "predict")}
        verify.prediction(self, module, self.sources["predict"], return_predictions)
        keep = True if return_predictions is None else return_predictions
        predictions = self._guard(partial(self._predict, keep, ckpt_path, weights_only))
        if isinstance(predictions, BaseException):
            raise predictions
        return predictions

    def _evaluate(
        self, verb: str, model: Any, dataloaders: Any, ckpt_path: Any, verbose: bool, datamodule: Any,
        weights_only: Any, others: dict[str, Any],
    ) -> list[dict[str, float]]:  # fmt: skip
        dataloaders = verify.arguments(verb, others, ("model", *EVALUATE)).get("dataloaders", dataloaders)
        dataloaders, datamodule, module, ckpt_path = self._given(verb, model, dataloaders, datamodule, ckpt_path)
        stage = "val" if verb == "validate" else "test"
        self._start(TrainerFn(verb), module, datamodule)
        self.sources = {stage: Source(stage, dataloaders, self.datamodule, module, verb)}
        verify.evaluation(self, module, self.sources[stage], verb)
        results = self._guard(partial(self._run_evaluation, stage, ckpt_path, weights_only))
        if isinstance(results, BaseException):
            raise results
        if verbose and self.is_global_zero and results:
            from fulmen.loop.results import show

            show(verb, results)
        return results

    def _given(self, verb: str, model: Any, dataloaders: Any, datamodule: Any, ckpt_path: Any) -> tuple[Any, ...]:
        """The model and data of this call; without a model those of the last run."""
        if isinstance(dataloaders, LightningDataModule) and datamodule is None:
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

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print from one process of each machine, beside the progress bar."""
        if self.local_rank == 0:
            bar = self.progress_bar_callback
            print(*args, **kwargs) if bar is None else bar.print(*args, **kwargs)


_fits = itertools.count(1)

FIT = ("train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only")
EVALUATE = ("dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only")


def _todays(given: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The arguments among `given` in today's spelling; one of the others that no time has known is an error."""
    arguments = {name: options.native(value) for name, value in given.items() if name in options.NAMES}
    others = {name: options.native(value) for name, value in others.items()}
    if others or _spelled_old(arguments):
        from fulmen.compat.arguments import translate

        arguments = translate({**arguments, **others}, set(options.NAMES))
    return arguments


def _spelled_old(arguments: dict[str, Any]) -> bool:
    """Values of today's arguments that only older programs give, or that stand in the environment."""
    accelerator, strategy = arguments["accelerator"], arguments["strategy"]
    return (
        any(arguments[name] is None for name in ("accelerator", "devices", "strategy", "max_steps"))
        or (isinstance(accelerator, str) and accelerator not in ("auto", "gpu", *device.AcceleratorRegistry))
        or (isinstance(strategy, str) and strategy != "auto" and strategy not in strategies.StrategyRegistry)
        or any(isinstance(plugin, (str, strategies.Strategy)) for plugin in options.listed(arguments["plugins"]))
        or isinstance(arguments["accumulate_grad_batches"], dict)
        or arguments["profiler"] is True
        or any(variable.startswith(("PL_TRAINER_", "FULMEN_DEVICES")) for variable in os.environ)
    )
