# ruff: noqa (as people write it today, for lightning 2)
# fmt: off
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import grad_norm, rank_zero_only
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

class AutoEncoder(pl.LightningModule):
    def __init__(self, lr: float = 0.005, code: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
    def configure_model(self) -> None:
        if not hasattr(self, "encoder"):
            self.encoder = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Dropout(0.01), nn.Linear(32, self.hparams.code))
            self.decoder = nn.Sequential(nn.Linear(self.hparams.code, 32), nn.GELU(), nn.Linear(32, 64))
    def forward(self, x):
        return self.decoder(self.encoder(x))
    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self(batch), batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.mse_loss(self(batch), batch))
    def on_before_optimizer_step(self, optimizer) -> None:
        self.log_dict(grad_norm(self.encoder, norm_type=2))
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step", "name": "warm"}}

class Losses(Callback):
    def __init__(self) -> None:
        self.losses, self.batches, self.started_at = [], 0, None
    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert trainer.state.fn == TrainerFn.FITTING and stage == "fit"
    def on_train_start(self, trainer, pl_module) -> None:
        self.started_at = trainer.global_step
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.batches += 1
        if self.batches == 40:  # in the middle of the second epoch
            trainer.save_checkpoint("middle.ckpt")
    @rank_zero_only
    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.losses.append(round(trainer.callback_metrics["loss_epoch"].item(), 6))

def train(ckpt_path=None):
    pl.seed_everything(3)
    losses, model = Losses(), AutoEncoder()
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=CSVLogger("logs"), enable_progress_bar=False, enable_model_summary=False,
        callbacks=[losses, ModelCheckpoint(every_n_train_steps=7, save_top_k=2, monitor="loss"), LearningRateMonitor(),
                   Timer(timedelta(hours=1)), GradientAccumulationScheduler({3: 2})], check_val_every_n_epoch=2)
    digits = torch.tensor(load_digits().data / 16).float()
    trainer.fit(model, DataLoader(digits[:1500], 50, shuffle=True), DataLoader(digits[1500:], 99), ckpt_path=ckpt_path)
    return losses, model

if __name__ == "__main__":
    (whole, one), (rest, two) = train(), train("middle.ckpt")
    print("RESULT", {"whole": whole.losses, "rest": rest.losses, "batches": [whole.batches, rest.batches],
        "started_at": rest.started_at, "same": all(map(torch.equal, one.parameters(), two.parameters()))})
