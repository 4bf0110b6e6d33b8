# ruff: noqa (as people write it today, for lightning 2)
# fmt: off
import lightning as L
import torch
import torch.nn as nn
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.utils.data import DataLoader, TensorDataset

class GAN(L.LightningModule):
    """Learns points around (2, -1), with manual optimization."""

    def __init__(self, latent_dim: int = 4, lr: float = 0.004, b1: float = 0.5, b2: float = 0.999):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent_dim, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch, batch_idx):
        (points,) = batch
        optimizer_g, optimizer_d = self.optimizers()
        assert isinstance(optimizer_g, LightningOptimizer)
        z = torch.randn(points.shape[0], self.hparams.latent_dim).type_as(points)
        valid = torch.ones(points.size(0), 1).type_as(points)

        self.toggle_optimizer(optimizer_g)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        with self.toggled_optimizer(optimizer_d):
            real_loss = self.adversarial_loss(self.discriminator(points), valid)
            fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), torch.zeros_like(valid))
            d_loss = (real_loss + fake_loss) / 2
            self.log("d_loss", d_loss, prog_bar=True, on_epoch=True)
            self.manual_backward(d_loss)
            self.clip_gradients(optimizer_d, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer_d.step()
            optimizer_d.zero_grad()
        if self.trainer.is_last_batch:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def configure_optimizers(self):
        lr, betas = self.hparams.lr, (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=betas)
        return [opt_g, opt_d], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.97) for opt in (opt_g, opt_d)]

class Samples(Callback):
    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        x, y = pl_module(torch.randn(2048, pl_module.hparams.latent_dim)).mean(0)
        self.log_dict({"x": x, "y": y})

if __name__ == "__main__":
    L.seed_everything(1)
    points = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(1024, 2)
    trainer = L.Trainer(
        accelerator="auto", devices=1, max_epochs=40, callbacks=[Samples(), ModelCheckpoint(save_last=True)],
        enable_progress_bar=False, default_root_dir="runs")
    trainer.fit(GAN(), DataLoader(TensorDataset(points), batch_size=64, shuffle=True))
    model = GAN.load_from_checkpoint(trainer.checkpoint_callback.last_model_path)
    print("RESULT", {"mean": model(torch.randn(4096, 4)).mean(0).tolist(), "steps": trainer.global_step,
        "lrs": [round(c.scheduler.get_last_lr()[0], 6) for c in trainer.lr_scheduler_configs],
        "metrics": sorted(trainer.callback_metrics)})
