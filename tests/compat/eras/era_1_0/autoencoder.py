# ruff: noqa (as people wrote it in the autumn of 2020, for pytorch_lightning 0.9 and 1.0)
# fmt: off
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LearningRateLogger, ModelCheckpoint
from pytorch_lightning.core.step_result import EvalResult, TrainResult
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.seed import seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

class AutoEncoder(pl.LightningModule):
    def __init__(self, lr=0.005, code=8):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Dropout(0.01), nn.Linear(32, code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.Tanh(), nn.Linear(32, 64))
    def shared_step(self, batch):
        return F.mse_loss(self.decoder(self.encoder(batch)), batch)
    def training_step(self, batch, batch_idx):
        result = TrainResult(minimize=self.shared_step(batch))
        result.log("train_loss", result.minimize, on_step=True, on_epoch=True, prog_bar=True)
        return result
    def validation_step(self, batch, batch_idx):
        loss = self.shared_step(batch)
        result = EvalResult(checkpoint_on=loss, early_stop_on=loss)
        result.log("val_loss", loss, sync_dist=True)
        return result
    def test_step(self, batch, batch_idx):
        result = self.validation_step(batch, batch_idx)
        result.rename_keys({"val_loss": "test_loss"})
        return result
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99 ** (step / 10))
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "decay"}]
    def optimizer_step(
        self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu, using_native_amp, using_lbfgs
    ):
        if self.trainer.global_step < 10:  # warm up
            optimizer.param_groups[0]["lr"] = (self.trainer.global_step + 1) / 10 * self.hparams.lr
        optimizer.step(closure=optimizer_closure)

class Progress(Callback):
    """Its count of batches is part of the checkpoint."""
    def __init__(self):
        self.count, self.epochs = 0, []
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
        self.count += 1
    def on_train_epoch_end(self, trainer, pl_module, outputs):
        self.epochs.append(round(trainer.callback_metrics["epoch_train_loss"].item(), 6))
    def on_save_checkpoint(self, trainer, pl_module):
        return {"count": self.count}
    def on_load_checkpoint(self, checkpointed):
        self.count = checkpointed["count"]

def train(max_epochs, resume=None):
    seed_everything(3)
    progress = Progress()
    checkpoint = ModelCheckpoint(filepath="kept/{epoch}-{val_loss:.4f}", save_top_k=-1, save_last=True, verbose=True)
    trainer = pl.Trainer(
        max_epochs=max_epochs, callbacks=[progress, LearningRateLogger()], checkpoint_callback=checkpoint,
        logger=CSVLogger("logs", name="ae"), resume_from_checkpoint=resume, gpus=0, deterministic=True,
        progress_bar_refresh_rate=0, weights_summary="top", row_log_interval=10, accumulate_grad_batches={0: 1, 1: 2},
        gradient_clip_val=0.5, reload_dataloaders_every_epoch=False)
    digits = torch.tensor(load_digits().data / 16).float()
    train_loader = DataLoader(digits[:1500], batch_size=60, shuffle=True)
    trainer.fit(AutoEncoder(), train_loader, DataLoader(digits[1500:], batch_size=99))
    test_loss = trainer.test(test_dataloaders=DataLoader(digits[1500:], batch_size=99), ckpt_path=None)[0]["test_loss"]
    return progress, round(test_loss, 6), checkpoint

if __name__ == "__main__":
    whole, whole_test, _ = train(4)
    _, _, checkpoint = train(2)
    rest, rest_test, _ = train(4, resume=checkpoint.last_model_path)
    print("RESULT", {"whole": whole.epochs, "rest": rest.epochs, "counts": [whole.count, rest.count],
                     "tests": [whole_test, rest_test], "monitor": checkpoint.monitor})
