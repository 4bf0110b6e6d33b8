"""How the verbs run: set up, restore, loop, tear down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, cast

import torch

from fulmen import compiled, hooks, optim, parts, slurm, transfer, verify
from fulmen.checkpoint import find, state
from fulmen.errors import MisconfigurationException, SIGTERMException
from fulmen.lifecycle import DataHooks
from fulmen.logs import LogStore
from fulmen.loop.guard import is_anomaly, located
from fulmen.loop.progress import VALIDATION_OVER, Progress
from fulmen.loop.resume import holds_others
from fulmen.loop.source import Source
from fulmen.module import LightningModule
from fulmen.outcome import arrive, hand_back, take_back
from fulmen.readout import Readout
from fulmen.seed import capture, isolate_rng, restore
from fulmen.signals import Signals
from fulmen.states import RunningStage, TrainerFn, TrainerState, TrainerStatus
from fulmen.warn import rank_zero_info, warn_once
from fulmen.watch import Watch

if TYPE_CHECKING:  # loaded when their verb runs: importing the Trainer is quick
    from fulmen.loop.evaluate import EvaluateLoop
    from fulmen.loop.predict import PredictLoop
    from fulmen.loop.train import TrainLoop
    from fulmen.trainer import Trainer


class Run(Readout):
    """The inside of Trainer's verbs, in the order in which it happens."""

    enable_autolog_hparams: bool
    val_check_interval: Any

    progress = Progress()
    _compiled: Sequence[torch.nn.Module] = ()

    @property
    def _trainer(self) -> Trainer:
        return cast("Trainer", self)

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
        self.received_sigterm = self.asked = self.stopping = False
        self.fit_number = 0  # among those of this process
        self.signals = Signals(self._ask_to_stop, slurm.signals(self.strategy))

    def _start(self, fn: TrainerFn, module: LightningModule, datamodule: Any) -> None:
        verify.not_within(self._trainer, fn.value)
        self._previous, self._again = self.train_loop, self._module is module
        trained = self.train_loop, self._optimizers, self._scheduler_configs
        self._reset(module, datamodule)
        if self._again and fn != TrainerFn.FITTING:  # save_checkpoint still has all, and fit may go on
            self.train_loop, self._optimizers, self._scheduler_configs = trained
        self.state = TrainerState(TrainerStatus.RUNNING, fn, RunningStage("train" if fn == "fit" else fn.value))
        self.should_stop = False
        module.trainer = self._trainer
        if datamodule is not None:
            datamodule.trainer = self

    def _guard(self, work: Callable[[], Any]) -> Any:
        """Run the work in all processes; whatever ends it, hooks and loggers are told.

        An interruption is returned, not raised, so that it shows where the user called and not what lies below.
        """
        if self.strategy.starts_anew:
            return self._guard_elsewhere(work)
        try:
            signals = self.signals if self.state.fn == TrainerFn.FITTING else nullcontext()
            look, late = self.signals.look, self.signals.late
            with signals, Watch(self._batches_so_far, self._place, look, self.strategy.give_up, late):
                result = self.strategy.launch(work)
            self.state.status = TrainerStatus.FINISHED
            return result
        except (KeyboardInterrupt, SIGTERMException) as error:
            self.state.status = TrainerStatus.INTERRUPTED
            self._failed(error)
            return error.with_traceback(None)
        except BaseException as error:
            from fulmen.report import tell

            self.state.status = TrainerStatus.INTERRUPTED
            self._failed(error)
            tell(self._trainer, error)
            raise
        finally:
            for source in self.sources.values():
                source.close()
            self.logs.enter(None)
            if self._module is not None:
                self._module.__dict__["_logs"] = None
                self._module.__dict__.pop("log", None)
                compiled.uninstall(self._compiled)
            self.state.stage = None

    def _guard_elsewhere(self, work: Callable[[], Any]) -> Any:
        """The same in new processes, each with a copy of this trainer; signals are passed on to them."""
        from fulmen.strategy import children

        self.signals.pass_on = children.pass_on
        self.state.status = TrainerStatus.INTERRUPTED
        try:
            with self.signals:
                done = self.strategy.launch(partial(self._elsewhere, work, capture()))
        except (KeyboardInterrupt, SIGTERMException) as error:
            return error.with_traceback(None)
        self.state.status = TrainerStatus.FINISHED
        if done is None:  # rank zero is on another machine
            return None
        take_back(self._trainer, done[1])
        return done[0]

    def _elsewhere(self, work: Callable[[], Any], random_states: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """As one of those processes, which the strategy knows by now to be there."""
        restore(random_states)
        self.signals.pass_on = None
        self.strategy.starts_anew = False
        arrive(self._trainer)
        result = self._guard(work)
        if isinstance(result, BaseException):
            raise result
        return result, hand_back(self._trainer)

    def _place(self) -> str:
        place = f"epoch {self.current_epoch}, batch {self.progress.batch}, global step {self.global_step}"
        rank = f", rank {self.global_rank}" if self.world_size > 1 else ""
        return f"{place}{rank} ({self.state.stage})"

    def _batches_so_far(self) -> int:
        evaluated = 0 if self.evaluation is None else sum(self.evaluation.done)
        return self.progress.batches + evaluated + (0 if self.prediction is None else self.prediction.batch_idx)

    def _ask_to_stop(self) -> None:
        self.asked, self.stopping = True, self.stopping if self.asked else self.should_stop
        self.received_sigterm = self.signals.received == SIGTERM

    def _ahead(self) -> int:
        """The next place at which this run is certain to look whether it is to end."""
        if self.evaluation is None or self.state.stage not in (RunningStage.VALIDATING, RunningStage.SANITY_CHECKING):
            return self.progress.place(further=1)
        within = VALIDATION_OVER if self.evaluation.closing else 2 + sum(self.evaluation.done)
        return self.progress.place(within)

    def stop_if_asked(self, validated: int) -> None:
        """Behind a batch, when a signal has come: the run ends; what is done, after the sanity check, is saved."""
        if self.signals.stops_at(self.progress.place(validated)) and not holds_others(self.train_loop):
            if self.train_loop is not None and self.state.stage != RunningStage.SANITY_CHECKING:
                self._save_interrupted()
            raise self.signals.exit()

    def _save_interrupted(self) -> None:
        """Where ckpt_path="last" looks for it; a SLURM job is also requeued, and then finds it by itself."""
        if slurm.requeues(self.strategy, self.signals.received):
            self._trainer.save_checkpoint(slurm.next_checkpoint(self.default_root_dir))
            if self.is_global_zero:
                slurm.requeue()
            return
        path = find.interrupted(self._trainer)
        if path is not None:
            self._trainer.save_checkpoint(path)
            rank_zero_info(f"Interrupted at global step {self.global_step}; ckpt_path='last' goes on from {path}")

    def _failed(self, error: BaseException) -> None:
        for hook in self.hooks.on_exception if "hooks" in self.__dict__ else ():
            hook(error)
        if self.datamodule is not None:
            self.datamodule.on_exception(error)
        for logger in self.loggers:
            logger.finalize("failed")

    def _fit(self, ckpt_path: Any, weights_only: bool | None) -> None:
        self.signals.ranks = self.strategy.agreement(self._ahead)
        ckpt_path = self._merge_callbacks(ckpt_path)
        path, checkpoint = self._load_checkpoint(ckpt_path, weights_only)
        same_run = find.is_of_same_run(self._trainer, ckpt_path, path)
        begins = path is None and (ckpt_path == "last" or self.options.resume == "auto")
        if begins or (checkpoint is not None and same_run):  # it goes on in the same log
            state.restore_loggers(self._trainer, checkpoint)
        module = self._setup()
        self.progress = Progress()
        self._restore_parts(checkpoint, path, same_run)
        self.strategy.setup(module, self.precision_plugin, training=True)
        self.evaluation = self._evaluation("val")
        self.evaluation.inside_fit = True
        self._build_loop(module)
        self._begin(module)
        assert self.train_loop is not None
        self.train_loop.same_run, self.train_loop.begins = same_run, begins
        if checkpoint is not None:
            state.restore_training(self._trainer, checkpoint, path)
            rank_zero_info(f"Restored all states from {path}")
            del checkpoint
        if same_run and (self.train_loop.resume or {}).get("should_stop"):
            rank_zero_info("The run had been asked to stop (early?) and ends. fit(ckpt_path=PATH) would train on.")
            self.should_stop = True
        self.strategy.barrier()
        with torch.autograd.set_detect_anomaly(True) if self.options.detect_anomaly else nullcontext():
            self._sanity_check(self.train_loop)
            torch.set_grad_enabled(True)
            try:
                self.train_loop.run()
            except RuntimeError as error:
                if is_anomaly(error):
                    raise located(error, self._place()) from error
                raise
        for hook in self.hooks.on_fit_end:
            hook()
        self._end()
        find.finish(self._trainer)

    def _evaluation(self, stage: str) -> EvaluateLoop:
        from fulmen.loop.evaluate import EvaluateLoop

        return EvaluateLoop(self._trainer, self.sources[stage], "validation" if stage == "val" else "test")

    def _build_loop(self, module: LightningModule) -> None:
        """The step, the schedulers and the training loop; configure_optimizers may ask for the trainer's estimates."""
        from fulmen.loop.step import AutomaticStep, ManualStep
        from fulmen.loop.train import TrainLoop

        assert self.evaluation is not None
        loop = self.train_loop = TrainLoop(self._trainer, self.sources["train"], self.evaluation, self.progress)
        if self._previous is not None:
            loop.follow(self._previous, self._again)
        self._optimizers, self._scheduler_configs, frequencies = optim.build(module)
        self.strategy.setup_optimizers(self._optimizers)
        kind: Any = AutomaticStep if module.automatic_optimization else ManualStep
        if self.options.cuda_graph:
            from fulmen.loop import capture

            kind = capture.step_for(kind)
        several = module.automatic_optimization and len(self._optimizers) > 1
        if several or hooks.check_step(module, "training_step") == "more":
            from fulmen.compat.optimizers import step_for

            kind = step_for(kind, module, len(self._optimizers), frequencies)
        self.step = kind(module, self._optimizers, self.strategy, self.precision_plugin, self.progress)
        self.step.watch(self.options.nonfinite, partial(_rewind, self._trainer, time.time()))
        self.step.attach(self.hooks)
        configs = self._scheduler_configs if module.automatic_optimization else []
        own = next(iter(self.hooks.lr_scheduler_step), None)
        loop.take(self.step, optim.Schedulers(configs, own, lambda: self.metrics_of_rank_zero))

    def _merge_callbacks(self, ckpt_path: Any) -> Any:
        """The module's own callbacks join the trainer's; "best" still means what those before them have kept."""
        if ckpt_path == "best":
            ckpt_path = find.resolve(self._trainer, ckpt_path)
        self.lightning_module.__dict__["_logs"] = self.logs
        self.callbacks = parts.merge(self.callbacks, self.lightning_module.configure_callbacks())
        verify.callbacks(self.callbacks)
        return ckpt_path

    def _setup(self) -> LightningModule:
        """Hooks bound, data prepared, setup called: the same for all verbs."""
        module, datamodule = self.lightning_module, self.datamodule
        self._bind_hooks()
        if self.options.barebones:
            module.__dict__["log"] = _silent
        self._prepare_data()
        self.strategy.barrier()
        if datamodule is not None:
            hooks.fitted(datamodule, "setup", ("stage",))(self.state.fn)
        for hook in (*self.hooks.setup, *self.hooks.module_setup):
            hook(self.state.fn)
        self.strategy.barrier()
        with self.precision_plugin.init_context():
            for hook in (*self.hooks.configure_model, *self.hooks.configure_sharded_model):
                hook()
        asked = self.options.compile
        if asked or asked == {}:
            self._compiled = compiled.install(module, asked if isinstance(asked, dict) else {})
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
            logger._open()
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
                            f"The module and the datamodule both have the hyperparameter {name!r}, with different "
                            "values; rename one, or save it with save_hyperparameters(logger=False)."
                        )
                    merged[name] = value
        for logger in self.loggers if merged else ():
            logger.log_hyperparams(merged)

    def _end(self) -> None:
        self.strategy.teardown()
        if self.datamodule is not None:
            hooks.fitted(self.datamodule, "teardown", ("stage",))(self.state.fn)
        for hook in (*self.hooks.teardown, *self.hooks.module_teardown):
            hook(self.state.fn)
        for logger in self.loggers:
            logger.finalize("success")

    def _sanity_check(self, training: TrainLoop) -> None:
        """A few validation batches before training, so that mistakes show early; leaves no trace."""
        loop, source = self.evaluation, self.sources["val"]
        assert loop is not None
        under_way = bool(self.progress.batches or training.resume is not None)
        if not under_way and not (self.num_sanity_val_steps and loop.enabled and source.exists):
            return
        training.again.before_check(under_way)
        if under_way:
            return
        self.state.stage = RunningStage.SANITY_CHECKING
        loop.sanity = True
        with isolate_rng():
            for hook in self.hooks.on_sanity_check_start:
                hook()
            loop.run()
            for hook in self.hooks.on_sanity_check_end:
                hook()
        self.logs.forget()
        training.again.after_check()
        loop.sanity, loop.done = False, [0] * len(loop.done)
        self.state.stage = RunningStage.TRAINING

    def _ready(self, ckpt_path: Any, weights_only: bool | None) -> None:
        """What comes before a loop that does not train."""
        ckpt_path = self._merge_callbacks(ckpt_path)
        path, checkpoint = self._load_checkpoint(ckpt_path, weights_only)
        module = self._setup()
        self._restore_parts(checkpoint, path)
        self.strategy.setup(module, self.precision_plugin, training=False)
        self._begin(module)

    def _run_evaluation(self, stage: str, ckpt_path: Any, weights_only: bool | None) -> list[dict[str, float]]:
        self._ready(ckpt_path, weights_only)
        self.evaluation = self._evaluation(stage)
        self.evaluation.load_data()
        results = self.evaluation.run()
        self._end()
        return results

    def _predict(self, keep: bool | str, ckpt_path: Any, weights_only: bool | None) -> Any:
        from fulmen.loop.predict import PredictLoop

        self._ready(ckpt_path, weights_only)
        self.prediction = PredictLoop(self._trainer, self.sources["predict"], keep)
        predictions = self.prediction.run()
        self._end()
        return predictions

    # ---- what loops ask for

    def refresh_hooks(self) -> None:
        """Rebuild the hook table if the list of callbacks was changed."""
        if self.hooks.callbacks != self.callbacks:
            self._bind_hooks()
            self.step.attach(self.hooks)

    def _bind_hooks(self) -> None:
        self.hooks = hooks.build(self, self.lightning_module, self.callbacks)
        for callback in self.callbacks:
            callback.__dict__["_logs_with"] = self.lightning_module

    def preparation(self, stage: str, dataloader_idx: int = 0) -> Callable[[Any], Any] | None:
        """What is done to each batch before a step sees it; None where that is nothing."""
        owners = {}
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            for owner, base in ((self.datamodule, DataHooks), (self._module, LightningModule)):
                if owner is not None and hooks.overrides(owner, name, base):
                    owners[name] = hooks.fitted(owner, name, hooks.MODULE_ONLY[name])
                    break
        convert = self.precision_plugin.convert_input if self.precision_plugin.converts_input else None
        device = self.strategy.root_device
        to_device = transfer.beside(self.strategy.to_device, device, self.sources[stage].loaders)
        if not owners and convert is None:
            return None if device.type == "cpu" and self.sources[stage].gives_tensors() else to_device
        before, move, after = (
            owners.get(n) for n in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
        )

        def prepare(batch: Any) -> Any:
            if convert is not None:
                batch = convert(batch)
            if before is not None:
                batch = before(batch, dataloader_idx)
            batch = to_device(batch) if move is None else move(batch, device, dataloader_idx)
            return batch if after is None else after(batch, dataloader_idx)

        return prepare

    # ---- checkpoints

    def _load_checkpoint(self, ckpt_path: Any, weights_only: bool | None) -> tuple[Any, Any]:
        """Read the file that ckpt_path means."""
        path = self.ckpt_path = find.resolve(self._trainer, ckpt_path)
        if path is None:
            return None, None
        rank_zero_info(f"Restoring from {path}")
        return path, state.read(self._trainer, path, weights_only)

    def _restore_parts(self, checkpoint: dict[str, Any] | None, path: Any, same_run: bool = False) -> None:
        """All but the training's own state."""
        if checkpoint is not None:
            state.restore_module(self._trainer, checkpoint, path, same_run)
            state.restore_callbacks(self._trainer, checkpoint)


def _rewind(trainer: Trainer, since: float) -> str:
    from fulmen.loop.rewind import rewind

    return rewind(trainer, since)


def _silent(*args: Any, **kwargs: Any) -> None:
    """self.log under barebones."""
    warn_once("self.log does nothing with barebones=True.")
