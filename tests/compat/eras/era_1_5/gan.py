# ruff: noqa (as people wrote it in early 2022, for pytorch_lightning 1.5 and 1.6)
# fmt: off
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks.model_checkpoint import ModelCheckpoint
from pytorch_lightning.loggers.csv_logs import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

class Points(LightningDataModule):
    def __init__(self, batch_size=64, num=1024):
        super().__init__()
        self.save_hyperparameters()
    def prepare_data(self):
        torch.save(torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(self.hparams.num, 2), "points.pt")
    def setup(self, stage=None):
        self.points = torch.load("points.pt")
    def train_dataloader(self):
        return DataLoader(self.points, batch_size=self.hparams.batch_size, shuffle=True)
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

class GAN(LightningModule):
    """Wasserstein, with a clipped critic; the critic steps at each batch, the generator at every third."""
    def __init__(self, latent_dim=4, lr=0.005):
        super().__init__()
        self.save_hyperparameters()
        self.generator = nn.Sequential(nn.Linear(latent_dim, 16), nn.ReLU(), nn.Linear(16, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.steps, self.toggled = [0, 0], set()
    def forward(self, z):
        return self.generator(z)
    def training_step(self, batch, batch_idx, optimizer_idx):
        fake = self(torch.randn(len(batch), self.hparams.latent_dim, device=self.device))
        loss = -self.critic(fake).mean() if optimizer_idx == 0 else self.critic(fake).mean() - self.critic(batch).mean()
        return {"loss": loss, "which": optimizer_idx}
    def training_step_end(self, outputs):
        self.log(("g_loss", "c_loss")[outputs["which"]], outputs["loss"], on_epoch=True, prog_bar=True)
        return outputs["loss"]
    def toggle_optimizer(self, optimizer, optimizer_idx=None):
        self.toggled.add(optimizer_idx)
        super().toggle_optimizer(optimizer, optimizer_idx)
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx=0, optimizer_closure=None, on_tpu=None,
                       using_native_amp=None, using_lbfgs=None):
        if optimizer_idx == 1 or batch_idx % 3 == 0:
            self.steps[optimizer_idx] += 1
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()
    def on_train_batch_end(self, outputs, batch, batch_idx, unused=0):
        with torch.no_grad():
            for p in self.critic.parameters():
                p.clamp_(-0.2, 0.2)
    def configure_optimizers(self):
        opts = [torch.optim.RMSprop(net.parameters(), lr=self.hparams.lr) for net in (self.generator, self.critic)]
        decay = [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(opt, 0.93), "interval": "epoch"} for opt in opts]
        return opts, decay

class Sampling(Callback):
    def on_epoch_end(self, trainer, pl_module):
        sample = pl_module(torch.randn(1024, pl_module.hparams.latent_dim)).mean(0)
        pl_module.log("x", sample[0])
        self.last = sample.tolist()

if __name__ == "__main__":
    seed_everything(2)
    sampling, model = Sampling(), GAN()
    trainer = Trainer(
        max_epochs=50, callbacks=[sampling, ModelCheckpoint(save_last=True, every_n_epochs=25)], gpus="", num_nodes=1,
        logger=CSVLogger("logs", name="gan"), progress_bar_refresh_rate=0, enable_model_summary=False, precision=32,
        reload_dataloaders_every_n_epochs=0, auto_scale_batch_size=None, log_every_n_steps=8, val_check_interval=1.0)
    trainer.fit(model, datamodule=Points())
    again = GAN.load_from_checkpoint(trainer.checkpoint_callback.last_model_path)
    assert torch.equal(again.generator[0].weight, model.generator[0].weight)
    print("RESULT", {"mean": sampling.last, "steps": model.steps, "toggled": sorted(map(str, model.toggled)),
        "lrs": [round(s["scheduler"].get_last_lr()[0], 6) for s in trainer.lr_schedulers],
        "metrics": sorted(trainer.callback_metrics)})
