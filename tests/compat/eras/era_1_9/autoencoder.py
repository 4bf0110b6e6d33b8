# ruff: noqa (as people wrote it in early 2023, for pytorch_lightning 1.8 and 1.9)
# fmt: off
from typing import Any, Dict

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.callbacks.timer import Timer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.loggers.tensorboard import TensorBoardLogger
from pytorch_lightning.utilities.types import STEP_OUTPUT
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

class AutoEncoder(LightningModule):
    def __init__(self, lr: float = 0.005, code: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.GELU(), nn.Linear(32, 64))
        self.noise = torch.zeros(64)
    def forward(self, x):
        return self.decoder(self.encoder(x + 0.01 * torch.randn_like(x)))
    def on_save_checkpoint(self, checkpoint: Dict[str, Any]) -> None:
        checkpoint["noise"] = self.noise
    def on_load_checkpoint(self, checkpoint: Dict[str, Any]) -> None:
        self.noise = checkpoint["noise"]
    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        self.noise = self.noise + batch.mean(0)
        loss = nn.functional.mse_loss(self(batch), batch)
        self.log("loss", loss)
        return {"loss": loss}
    def training_epoch_end(self, outputs):
        self.log("mean_loss", torch.stack([out["loss"] for out in outputs]).mean())
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", nn.functional.mse_loss(self(batch), batch), sync_dist=True)
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr, amsgrad=True)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "frequency": 1}}

class Losses(Callback):
    def __init__(self):
        self.losses, self.seen = [], 0
    @property
    def state_key(self):
        return "losses"
    def state_dict(self):
        return {"seen": self.seen}
    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += len(batch)
    def on_train_end(self, trainer, pl_module):
        self.step = trainer.fit_loop.epoch_loop._batches_that_stepped
    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.losses.append(round(trainer.callback_metrics["val_loss"].item(), 6))

def train(max_epochs, resume=None):
    seed_everything(3)
    losses, logger, model = Losses(), TensorBoardLogger("logs", name="ae"), AutoEncoder()
    assert isinstance(logger, Logger)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=max_epochs, logger=logger, enable_model_summary=False,
        callbacks=[losses, ModelCheckpoint("kept", save_last=True, monitor="val_loss"), Timer("00:01:00:00"),
                   EarlyStopping("val_loss"), RichProgressBar(refresh_rate=0)],
        resume_from_checkpoint=resume, val_check_interval=0.5, accumulate_grad_batches={2: 2})
    digits = torch.tensor(load_digits().data / 16).float()
    trainer.fit(model, DataLoader(digits[:1500], 50, shuffle=True), DataLoader(digits[1500:], 99))
    return losses, model

if __name__ == "__main__":
    (whole, model), _ = train(4), train(2)
    rest, other = train(4, resume="kept/last-v1.ckpt")
    print("RESULT", {"whole": whole.losses, "rest": rest.losses, "seen": [whole.seen, rest.seen],
        "noise": torch.equal(model.noise, other.noise), "steps": [whole.step, rest.step]})
