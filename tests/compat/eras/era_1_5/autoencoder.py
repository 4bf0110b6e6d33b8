# ruff: noqa (as people wrote it in early 2022, for pytorch_lightning 1.5 and 1.6)
# fmt: off
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint
from pytorch_lightning.callbacks.base import Callback
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from pytorch_lightning.utilities.distributed import rank_zero_only
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
class Digits(LightningDataModule):
    def __init__(self):
        super().__init__(dims=(64,))
        self.epochs = 0
    def setup(self, stage=None):
        self.digits = torch.tensor(load_digits().data / 16).float()
    def train_dataloader(self):
        self.epochs += 1
        return DataLoader(self.digits[:1500], batch_size=60, shuffle=True)
    def val_dataloader(self):
        return [DataLoader(part, batch_size=99) for part in self.digits[1500:].split(150)]
    def on_save_checkpoint(self, checkpoint):
        checkpoint["loaded"] = self.epochs
    def on_load_checkpoint(self, checkpoint):
        self.epochs = checkpoint["loaded"]

class AutoEncoder(LightningModule):
    def __init__(self, size, lr=0.005, code=8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, code), nn.Tanh(), nn.Linear(code, size))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        self.log("loss", loss := F.mse_loss(self(batch), batch), on_step=True, on_epoch=True, batch_size=len(batch))
        return loss
    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.log(f"val_{dataloader_idx}", F.mse_loss(self(batch), batch), add_dataloader_idx=False)
        return len(batch)
    def validation_epoch_end(self, outputs):
        self.log("rows", float(sum(map(sum, outputs))))
    def on_before_optimizer_step(self, optimizer, optimizer_idx):
        assert optimizer_idx == 0
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

class Losses(Callback):
    def __init__(self):
        self.losses, self.total, self.sane = [], 0, 0
    @rank_zero_only
    def on_validation_end(self, trainer, pl_module):
        self.sane += trainer.sanity_checking and trainer.state.stage == RunningStage.SANITY_CHECKING
    def on_train_epoch_end(self, trainer, pl_module, unused=None):
        assert trainer.state.fn == TrainerFn.FITTING and not trainer.fit_loop.restarting
        self.losses.append(round(trainer.callback_metrics["loss_epoch"].item(), 6))
        self.total = trainer.fit_loop.epoch_loop.batch_progress.total.completed
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        return {"before": list(self.losses)}
    def on_load_checkpoint(self, trainer, pl_module, callback_state):
        self.before = callback_state["before"]

def train(max_epochs, ckpt_path=None):
    seed_everything(3)
    losses, dm, starts = Losses(), Digits(), []
    trainer = Trainer(
        max_epochs=max_epochs, logger=False, gpus=None, reload_dataloaders_every_n_epochs=1, enable_progress_bar=False,
        callbacks=[losses, ModelCheckpoint("kept", "{epoch}", save_top_k=-1, every_n_epochs=1),
                   LambdaCallback(on_train_start=lambda trainer, module: starts.append(trainer.current_epoch))],
        weights_summary=None, stochastic_weight_avg=False, accumulate_grad_batches=2, gradient_clip_algorithm="value",
        gradient_clip_val=0.1, prepare_data_per_node=True)
    trainer.fit(AutoEncoder(dm.size(0)), datamodule=dm, ckpt_path=ckpt_path)
    return losses, dm.epochs, starts

if __name__ == "__main__":
    (whole, loads, _), (rest, loaded, starts) = train(4), train(4, ckpt_path="kept/epoch=1.ckpt")
    print("RESULT", {"whole": whole.losses, "rest": rest.losses, "before": rest.before, "loaded": [loads, loaded],
        "starts": starts, "sane": [whole.sane, rest.sane], "batches": [whole.total, rest.total]})
