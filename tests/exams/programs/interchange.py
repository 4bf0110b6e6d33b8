"""interchange.py FRAMEWORK FOLDER EPOCHS START: train every setting with a framework; START is "new" or "resume".

FOLDER gets for each setting `NAME.pt` (weights, learning rates, states of callbacks) and the checkpoints in `NAME/`,
one of which a run that resumes goes on from.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

framework, folder, epochs = sys.argv[1], Path(sys.argv[2]).absolute(), int(sys.argv[3])
resumes = sys.argv[4] == "resume"
L: Any = importlib.import_module(framework)
callbacks: Any = importlib.import_module(f"{framework}.callbacks")
torch.set_num_threads(1)


def loader(count: int = 10, **options: Any) -> DataLoader[Any]:
    x = torch.linspace(-1, 1, count * 3, dtype=torch.float32).reshape(count, 3)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=2, **options)


class Resumable:
    """A loader that knows where it stands."""

    def __init__(self) -> None:
        self.batches, self.at = list(loader()), 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.at % len(self), len(self)):
            self.at = index + 1
            yield self.batches[index]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.at = state_dict["at"]


class Net(L.LightningModule):
    """Five batches an epoch; what is special about a setting is in a subclass."""

    def __init__(self, width: int = 4, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def loss(self, batch: Any) -> Any:
        x, y = batch
        return nn.functional.mse_loss(self.model(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.rate, momentum=0.9)


class Stepped(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


class Cycle(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val"}}


class Dropout(Net):
    def __init__(self) -> None:
        super().__init__()
        self.model.insert(1, nn.Dropout(0.3))


class Manual(Net):
    """Two optimizers, of which one steps every second batch; a scheduler by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if index == 0 or batch_idx % 2 == 0:
                optimizer.step()

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.model[0].parameters(), 0.02)
        second = torch.optim.SGD(self.model[2].parameters(), 0.1, momentum=0.5)
        return [first, second], [torch.optim.lr_scheduler.ExponentialLR(first, 0.8)]


class Counting(L.LightningDataModule):
    """Gives each epoch samples of its own, by a count that is its state."""

    def __init__(self, count: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.given = 0

    def train_dataloader(self) -> Any:
        self.given += 1
        return loader(self.hparams.count + 2 * self.given)

    def val_dataloader(self) -> Any:
        return loader(4)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.given = state_dict["given"]


class Double(Net):
    def loss(self, batch: Any) -> Any:
        return super().loss([part.double() for part in batch])


LAST: dict[str, Any] = {"filename": "{epoch}", "save_top_k": -1}
BEST: dict[str, Any] = {"filename": "{epoch}", "monitor": "val", "save_top_k": 2, "save_last": True}
MIDDLE: dict[str, Any] = {"filename": "{step}", "every_n_train_steps": 4, "save_top_k": -1}
# The module, the Trainer's arguments, ModelCheckpoint's, and the file that training goes on from.
SETTINGS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "momentum": (Net, {}, LAST, "epoch=1.ckpt"),
    "scheduler": (Stepped, {}, LAST, "epoch=1.ckpt"),
    "cycle": (Cycle, {}, LAST, "epoch=1.ckpt"),
    "plateau": (Plateau, {}, LAST, "after.ckpt"),
    "plateau_at_epoch_end": (Plateau, {}, LAST, "epoch=1.ckpt"),
    "accumulation": (Net, {"accumulate_grad_batches": 2}, LAST, "epoch=1.ckpt"),
    "clipping": (Net, {"gradient_clip_val": 0.1}, LAST, "epoch=1.ckpt"),
    "dropout": (Dropout, {}, LAST, "epoch=1.ckpt"),
    "manual": (Manual, {}, LAST, "epoch=1.ckpt"),
    "best": (Plateau, {}, BEST, "after.ckpt"),
    "data": (Net, {"reload_dataloaders_every_n_epochs": 1}, LAST, "epoch=1.ckpt"),
    "double": (Double, {"precision": "64-true"}, LAST, "epoch=1.ckpt"),
    "half": (Net, {"precision": "bf16-true"}, LAST, "epoch=1.ckpt"),
    "bfloat16": (Cycle, {"precision": "bf16-mixed"}, LAST, "epoch=1.ckpt"),
    "middle": (Stepped, {}, MIDDLE, "step=8.ckpt"),
    "resumable": (Stepped, {}, MIDDLE, "step=8.ckpt"),
    "validated": (Stepped, {"val_check_interval": 2}, LAST | {"filename": "{step}"}, "step=7.ckpt"),
}


def run(name: str) -> dict[str, Any]:
    make, options, saving, file = SETTINGS[name]
    saved = folder / name / file if resumes else None
    keep = callbacks.ModelCheckpoint(dirpath=folder / name, **saving)
    stop = callbacks.EarlyStopping("val", patience=3, min_delta=0.02)
    L.seed_everything(7)
    module = make()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=epochs, callbacks=[stop, keep], **options,
    )  # fmt: skip
    if name == "data":
        trainer.fit(module, datamodule=Counting(6), ckpt_path=saved)
    else:
        training = Resumable() if name == "resumable" else loader(shuffle=name == "dropout")
        trainer.fit(module, training, loader(4), ckpt_path=saved)
    trainer.save_checkpoint(folder / name / "after.ckpt")
    result = {
        "weights": module.state_dict(),
        "rates": [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups],
        "at": [trainer.current_epoch, trainer.global_step],
        "stop": stop.state_dict(),
        "scores": {Path(path).name: score for path, score in keep.best_k_models.items()},
        "given": trainer.datamodule.given if name == "data" else None,
    }
    if saved is not None:
        loaded = type(module).load_from_checkpoint(saved)
        result["loaded"] = {"weights": loaded.state_dict(), "hparams": dict(loaded.hparams)}
        if name == "data":
            result["loaded"]["data"] = dict(Counting.load_from_checkpoint(saved).hparams)
    return result


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETTINGS:
        try:
            torch.save(run(name), folder / f"{name}.pt")
        except Exception as error:  # the test of this setting tells
            torch.save({"error": f"{type(error).__name__}: {error}"}, folder / f"{name}.pt")
