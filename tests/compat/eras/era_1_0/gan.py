# ruff: noqa (as people wrote it at the end of 2020, for pytorch_lightning 1.0)
# fmt: off
import os
from argparse import Namespace
from collections import OrderedDict

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.lightning import LightningModule
from pytorch_lightning.loggers.tensorboard import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def mlp(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, 16), nn.LeakyReLU(0.2), nn.Linear(16, n_out))

class GAN(LightningModule):
    """Learns points around (2, -1). The discriminator has two batches for each of the generator's."""
    def __init__(self, latent_dim: int = 4, lr: float = 0.004, b1: float = 0.5, b2: float = 0.999, **kwargs):
        super().__init__()
        self.save_hyperparameters()
        self.generator, self.discriminator = mlp(latent_dim, 2), mlp(2, 1)
        self.turns, self.epoch_sizes = [0, 0], []
    def forward(self, z):
        return self.generator(z)
    def adversarial_loss(self, y_hat, y):
        return nn.functional.binary_cross_entropy_with_logits(y_hat, y)
    def training_step(self, batch, batch_idx, optimizer_idx):
        (points,) = batch
        z = torch.randn(points.shape[0], self.hparams.latent_dim).type_as(points)
        valid = torch.ones(points.size(0), 1, device=self.device)
        self.turns[optimizer_idx] += 1
        if optimizer_idx == 0:
            assert not any(p.requires_grad for p in self.discriminator.parameters())
            g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
            self.log("g_loss", g_loss, prog_bar=True)
            return OrderedDict({"loss": g_loss})
        d_loss = self.adversarial_loss(self.discriminator(points), valid)
        d_loss = (d_loss + self.adversarial_loss(self.discriminator(self(z)), torch.zeros_like(valid))) / 2
        self.log("d_loss", d_loss, prog_bar=True, on_step=True, on_epoch=True)
        return d_loss
    def training_epoch_end(self, outputs):
        self.epoch_sizes.append(len([out["loss"] for out in outputs]))  # one for each batch
    def on_epoch_end(self):
        sample = self(torch.randn(512, self.hparams.latent_dim, device=self.device)).mean(0)
        self.logger.experiment.add_scalars("sample", {"x": sample[0], "y": sample[1]}, self.current_epoch)
    def configure_optimizers(self):
        betas = (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr, betas=betas)
        return ({"optimizer": opt_g, "frequency": 1}, {"optimizer": opt_d, "frequency": 2})
    def train_dataloader(self):
        points = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(1536, 2)
        return DataLoader(TensorDataset(points), batch_size=32, drop_last=True)

def main(args: Namespace) -> None:
    pl.trainer.seed_everything(1)
    model = GAN(**vars(args))
    trainer = pl.Trainer(
        logger=TensorBoardLogger(os.getcwd(), name="gan", default_hp_metric=False), gpus=args.gpus, max_epochs=40,
        checkpoint_callback=False, progress_bar_refresh_rate=0, weights_summary="full", accelerator=None,
        num_sanity_val_steps=0, amp_level="O2", amp_backend="native", sync_batchnorm=False, benchmark=True,
        auto_select_gpus=False, replace_sampler_ddp=True, log_gpu_memory=None, overfit_batches=0.0,
    )
    trainer.fit(model)
    rank_zero_info("done")
    mean = model(torch.randn(4096, 4)).mean(0).tolist()
    print("RESULT", {"mean": mean, "turns": model.turns, "sizes": model.epoch_sizes[0], "steps": trainer.global_step,
                     "metrics": sorted(trainer.logged_metrics), "bar": sorted(trainer.progress_bar_dict)})

if __name__ == "__main__":
    main(Namespace(latent_dim=4, gpus=None))
