# ruff: noqa (as people wrote it in the spring of 2020, for pytorch_lightning 0.7)
# fmt: off
from argparse import ArgumentParser
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.core import LightningModule
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

class GAN(LightningModule):
    """Learns points around (2, -1)."""
    def __init__(self, hparams):
        super().__init__()
        self.hparams = hparams
        self.generator = nn.Sequential(nn.Linear(hparams.latent_dim, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
        self.turns = [0, 0]
    def forward(self, z):
        return self.generator(z)
    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy(y_hat, y)
    def training_step(self, batch, batch_nb, optimizer_i):
        (points,) = batch
        z = torch.randn(points.shape[0], self.hparams.latent_dim)
        if self.on_gpu:
            z = z.cuda(points.device.index)
        valid, fake = torch.ones(points.size(0), 1), torch.zeros(points.size(0), 1)
        if optimizer_i == 0:
            g_loss = self.adversarial_loss(self.discriminator(self.forward(z)), valid)
            tqdm_dict = {"g_loss": g_loss}
            return OrderedDict({"loss": g_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})
        if optimizer_i == 1:
            real_loss = self.adversarial_loss(self.discriminator(points), valid)
            fake_loss = self.adversarial_loss(self.discriminator(self.forward(z).detach()), fake)
            d_loss = (real_loss + fake_loss) / 2
            tqdm_dict = {"d_loss": d_loss}
            return OrderedDict({"loss": d_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})
    def optimizer_step(self, epoch_nb, batch_nb, optimizer, optimizer_i, second_order_closure=None):
        # update the generator every 2 steps, the discriminator at each
        if optimizer_i == 1 or batch_nb % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
            self.turns[optimizer_i] += 1
    def configure_optimizers(self):
        lr = self.hparams.lr
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.5, 0.999))
        return [opt_g, opt_d], []
    def train_dataloader(self):
        points = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(1024, 2)
        return DataLoader(TensorDataset(points), batch_size=64)
    def on_epoch_end(self):
        sample = self.forward(torch.randn(256, self.hparams.latent_dim))
        self.logger.experiment.add_scalar("mean_x", sample[:, 0].mean(), self.current_epoch)

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--latent_dim", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.004)
    torch.manual_seed(0)
    model = GAN(parser.parse_args())
    trainer = Trainer(
        logger=TensorBoardLogger("tb_logs", name="gan"), max_epochs=40, early_stop_callback=False, gpus=None,
        progress_bar_refresh_rate=0, checkpoint_callback=False, use_amp=False, print_nan_grads=True,
    )
    trainer.fit(model)
    mean = model(torch.randn(4096, 4)).mean(0).tolist()
    print("RESULT", {"mean": mean, "turns": model.turns, "metrics": sorted(trainer.tng_tqdm_dic)})
