"""The hooks that a LightningModule or LightningDataModule may override; these here do nothing and are never called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fulmen.tree import move


class DataHooks:
    """Where data comes from and how a batch reaches its device; a datamodule's overrides win over the module's."""

    def prepare_data(self) -> None:
        """Download and write to disk; called in one process of each node. Don't set attributes here."""

    def setup(self, stage: str) -> None:
        """Called on every rank at the start of "fit", "validate", "test" and "predict"."""

    def teardown(self, stage: str) -> None:
        """Called on every rank at the end of the stage."""

    def train_dataloader(self) -> Any:
        """A DataLoader, another iterable of batches, or a dict or list of them."""
        raise NotImplementedError("train_dataloader is not defined")

    def val_dataloader(self) -> Any:
        raise NotImplementedError("val_dataloader is not defined")

    def test_dataloader(self) -> Any:
        raise NotImplementedError("test_dataloader is not defined")

    def predict_dataloader(self) -> Any:
        raise NotImplementedError("predict_dataloader is not defined")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the batch before it is moved; return it."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch of an own kind to the device; return it."""
        return move(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the batch on the device; return it."""
        return batch


class CheckpointHooks:
    """What goes into a checkpoint beside the usual."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to the checkpoint before it is written."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added, before the weights are loaded."""


class ModelHooks:
    """The steps, the configuration, and the moments of a run."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """(batch[, batch_idx]) -> the loss, a dict with "loss", or None to skip the batch."""
        raise NotImplementedError("training_step is not defined")

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """(batch[, batch_idx[, dataloader_idx]])"""
        raise NotImplementedError("validation_step is not defined")

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """(batch[, batch_idx[, dataloader_idx]])"""
        raise NotImplementedError("test_step is not defined")

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """(batch[, batch_idx[, dataloader_idx]]) -> what Trainer.predict collects; by default forward(batch)."""
        return self(args[0] if args else kwargs["batch"])  # type: ignore[operator]

    def configure_optimizers(self) -> Any:
        """The optimizers and schedulers: an Optimizer, a list, ([optimizers], [schedulers]) or a dict."""

    def configure_callbacks(self) -> Any:
        """Callbacks that the module brings; they replace the Trainer's of the same class."""
        return []

    def configure_model(self) -> None:
        """Build layers under the strategy and precision of the run; may be called several times."""

    def configure_sharded_model(self) -> None:
        """The former name of `configure_model`."""

    # ---- moments

    def on_fit_start(self) -> None: ...
    def on_fit_end(self) -> None: ...
    def on_train_start(self) -> None: ...
    def on_train_end(self) -> None: ...
    def on_train_epoch_start(self) -> None: ...
    def on_train_epoch_end(self) -> None: ...

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Return -1 to skip the rest of the epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...
    def on_validation_start(self) -> None: ...
    def on_validation_end(self) -> None: ...
    def on_validation_epoch_start(self) -> None: ...
    def on_validation_epoch_end(self) -> None: ...
    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...
    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    # Tests and predictions have the same moments.
    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end
    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end
    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_model_zero_grad(self) -> None:
        """Before validation inside fit; by default gradients are kept only while they accumulate."""

    def on_validation_model_eval(self) -> None:
        """Override to choose what is put into evaluation mode; the default is all."""
        self.trainer.lightning_module.eval()  # type: ignore[attr-defined]

    def on_validation_model_train(self) -> None:
        """Override to choose what goes back into training mode; by default each part's mode of before."""
        self.trainer.lightning_module.train()  # type: ignore[attr-defined]

    on_test_model_eval = on_predict_model_eval = on_validation_model_eval
    on_test_model_train = on_validation_model_train

    def on_before_backward(self, loss: Tensor) -> None: ...
    def on_after_backward(self) -> None: ...
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None: ...
    def on_before_zero_grad(self, optimizer: Optimizer) -> None: ...
