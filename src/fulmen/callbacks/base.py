"""What every callback is: hooks that do nothing, and a state that goes into the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class Callback:
    """Something that happens beside the training, without a place in the model.

    Override the hooks you need; a hook that you leave alone is never called.

        class Bell(Callback):
            def on_train_end(self, trainer, pl_module):
                print("done at step", trainer.global_step)

        Trainer(callbacks=[Bell()])
    """

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint; two callbacks of one class need different ones."""
        return type(self).__qualname__

    def _generate_state_key(self, **settings: Any) -> str:
        """A state key that tells callbacks of one class apart by `settings`."""
        return f"{type(self).__qualname__}{settings!r}"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the trainer behind, and the module that it logs with."""
        return {name: value for name, value in self.__dict__.items() if name != "_logs_with"}

    def log(self, *args: Any, **kwargs: Any) -> None:
        """The same as `LightningModule.log`, in every hook where that may be called; `log_dict` likewise."""
        self._logging_module().log(*args, **kwargs)

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        self._logging_module().log_dict(*args, **kwargs)

    def _logging_module(self) -> Any:
        if "_logs_with" not in self.__dict__:
            raise RuntimeError(
                f"{type(self).__name__} logs while no trainer runs it. "
                "Pass the callback to Trainer(callbacks=[...]) and log inside its hooks."
            )
        return self.__dict__["_logs_with"]

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart, as plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """First of a run; `stage` is "fit", "validate", "test" or "predict"."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Last of a run that ended well."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module is on its device and its optimizers exist."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the epoch's last batch and the validation that belongs to it."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is on the device."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """`outputs` is what `training_step` returned; a loss in it is divided by the accumulated batches."""

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """After the forward pass, before old gradients go."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None: ...

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients exist; with 16-mixed they are scaled."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The gradients are unscaled and not yet clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was logged in it is in `trainer.callback_metrics`."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None: ...
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None: ...

    # Tests and predictions have the same moments.
    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end
    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end
    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """`checkpoint` is about to be written; change it in place."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """`checkpoint` was read; nothing of it is restored yet."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run stops because of `exception`, which is raised again afterwards."""


class Checkpoint(Callback):
    """Base class of callbacks that save checkpoints: they run after all others."""
