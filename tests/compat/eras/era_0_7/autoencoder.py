# ruff: noqa (as people wrote it in the spring of 2020, for pytorch_lightning 0.7)
# fmt: off
import os
from argparse import Namespace

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.callbacks.base import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

class AutoEncoder(pl.LightningModule):
    def __init__(self, hparams):
        super().__init__()
        self.hparams = hparams
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, hparams.code))
        self.decoder = nn.Sequential(nn.Linear(hparams.code, 32), nn.Tanh(), nn.Linear(32, 64))
    def forward(self, x):
        return self.decoder(self.encoder(x))
    def training_step(self, batch, batch_idx):
        return {"loss": nn.functional.mse_loss(self.forward(batch), batch)}
    def training_end(self, output):
        output["log"] = {"train_loss": output["loss"]}
        return output
    def training_epoch_end(self, outputs):
        mean = torch.stack([output["loss"] for output in outputs]).mean()
        return {"epoch_loss": mean, "log": {"epoch_loss": mean}}
    def on_save_checkpoint(self, checkpoint):
        checkpoint["made_by"] = "autoencoder"
    def on_load_checkpoint(self, checkpoint):
        assert checkpoint["made_by"] == "autoencoder"
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
    def optimizer_step(self, current_epoch, batch_idx, optimizer, optimizer_idx, second_order_closure=None):
        if self.trainer.global_step < 10:  # warm up
            for pg in optimizer.param_groups:
                pg["lr"] = min(1.0, (self.trainer.global_step + 1) / 10) * self.hparams.lr
        optimizer.step()
        optimizer.zero_grad()
    def prepare_data(self):
        self.digits = torch.tensor(load_digits().data / 16, dtype=torch.float)
    def train_dataloader(self):
        return DataLoader(self.digits, batch_size=64, shuffle=True)

class Losses(Callback):
    def __init__(self):
        self.losses, self.batches = [], 0
    def on_batch_end(self, trainer, pl_module):
        self.batches += 1
    def on_epoch_end(self, trainer, pl_module):
        self.losses.append(round(trainer.callback_metrics["epoch_loss"].item(), 6))

def train(max_epochs, resume=None):
    torch.manual_seed(7)
    losses = Losses()
    trainer = pl.Trainer(
        logger=TensorBoardLogger("logs"), max_epochs=max_epochs, resume_from_checkpoint=resume, min_nb_epochs=1,
        checkpoint_callback=ModelCheckpoint("saved/{epoch}", save_top_k=-1, period=1), early_stop_callback=False,
        progress_bar_refresh_rate=0, callbacks=[losses], gradient_clip=1.0, num_sanity_val_steps=0,
        reload_dataloaders_every_epoch=True, log_gpu_memory=None, weights_summary=None, track_grad_norm=2,
    )
    trainer.fit(AutoEncoder(Namespace(code=8, lr=0.005)))
    assert losses.batches == 29 * len(losses.losses)
    return losses.losses

if __name__ == "__main__":
    whole = train(4)
    rest = train(4, resume=os.path.join("saved", "epoch=1.ckpt"))
    print("RESULT", {"whole": whole, "rest": rest})
