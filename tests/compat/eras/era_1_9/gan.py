# ruff: noqa (as people wrote it in early 2023, for pytorch_lightning 1.8 and 1.9)
# fmt: off
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import grad_norm
from lightning_fabric.utilities.seed import seed_everything
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

class GAN(pl.LightningModule):
    """Learns points around (2, -1); every hook that had the optimizer's index has it."""
    def __init__(self, latent_dim=4, lr=0.004):
        super().__init__()
        self.save_hyperparameters()
        self.generator = nn.Sequential(nn.Linear(latent_dim, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        self.called = {}
    def note(self, name, optimizer_idx):
        self.called.setdefault(name, set()).add(optimizer_idx)
    def forward(self, z):
        return self.generator(z)
    def training_step(self, batch, batch_idx, optimizer_idx):
        z = torch.randn(len(batch), self.hparams.latent_dim, device=self.device)
        real, fake = batch.new_ones(len(batch), 1), batch.new_zeros(len(batch), 1)
        if optimizer_idx == 0:
            loss = bce(self.discriminator(self(z)), real)
        else:
            loss = (bce(self.discriminator(batch), real) + bce(self.discriminator(self(z).detach()), fake)) / 2
        self.log(f"loss_{optimizer_idx}", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss
    def backward(self, loss, optimizer, optimizer_idx, *args, **kwargs):
        self.note("backward", optimizer_idx)
        super().backward(loss, optimizer, optimizer_idx, *args, **kwargs)
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu=False,
                       using_lbfgs=False):
        self.note("optimizer_step", optimizer_idx)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu, using_lbfgs)
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer, optimizer_idx):
        self.note("optimizer_zero_grad", optimizer_idx)
        optimizer.zero_grad(set_to_none=True)
    def configure_gradient_clipping(self, optimizer, optimizer_idx, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.note("configure_gradient_clipping", optimizer_idx)
        self.clip_gradients(optimizer, gradient_clip_val=gradient_clip_val,
                            gradient_clip_algorithm=gradient_clip_algorithm)
    def on_before_optimizer_step(self, optimizer, optimizer_idx):
        self.note("on_before_optimizer_step", optimizer_idx)
        self.log("norm", grad_norm(self, norm_type=2)["grad_2.0_norm_total"])
    def lr_scheduler_step(self, scheduler, optimizer_idx, metric):
        self.note("lr_scheduler_step", optimizer_idx)
        scheduler.step(epoch=self.current_epoch)
    def configure_optimizers(self):
        nets, betas = (self.generator, self.discriminator), (0.5, 0.999)
        optimizers = [torch.optim.Adam(net.parameters(), lr=self.hparams.lr, betas=betas) for net in nets]
        return [{"optimizer": one, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(one, lambda e: 0.97**e)}
                for one in optimizers]

class Mean(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        with torch.no_grad():
            self.mean = pl_module(torch.randn(2048, 4)).mean(0).tolist()

if __name__ == "__main__":
    seed_everything(4)
    mean, model = Mean(), GAN()
    points = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(1024, 2)
    trainer = pl.Trainer(
        max_epochs=40, accelerator="auto", strategy=SingleDeviceStrategy(torch.device("cpu")), logger=CSVLogger("logs"),
        callbacks=[mean, LearningRateMonitor()], enable_progress_bar=False, enable_checkpointing=False, precision="32",
        gradient_clip_val=1.0, amp_backend="native", move_metrics_to_cpu=False, auto_lr_find=False, log_every_n_steps=4)
    trainer.fit(model, train_dataloaders=torch.utils.data.DataLoader(points, batch_size=64, shuffle=True))
    print("RESULT", {"mean": mean.mean, "called": sorted(name for name, seen in model.called.items() if seen == {0, 1}),
        "steps": trainer.global_step, "metrics": sorted(trainer.callback_metrics)})
