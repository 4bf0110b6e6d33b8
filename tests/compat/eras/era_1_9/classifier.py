# ruff: noqa (as people wrote it in early 2023, for pytorch_lightning 1.8 and 1.9)
# fmt: off
from argparse import ArgumentParser

import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

class DigitsDataModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.batch_size = batch_size
    def setup(self, stage: str):
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x / 16).float(), torch.tensor(y))
        self.train, self.val, self.test = random_split(data, [1197, 300, 300], torch.Generator().manual_seed(42))
    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)
    def val_dataloader(self):
        return DataLoader(self.val, 100)
    def test_dataloader(self):
        return DataLoader(self.test, 100)

    predict_dataloader = test_dataloader

class LitDigits(pl.LightningModule):
    def __init__(self, lr=0.03, weight_decay=1e-4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
        metrics = torchmetrics.MetricCollection({"acc": torchmetrics.Accuracy(task="multiclass", num_classes=10),
            "f1": torchmetrics.F1Score(task="multiclass", num_classes=10, average="macro")})
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val_"), metrics.clone(prefix="test_")
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss
    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.val_metrics.update(logits, batch[1])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]), prog_bar=True)
    def validation_epoch_end(self, outputs):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()
    def test_step(self, batch, batch_idx):
        self.test_metrics(self(batch[0]), batch[1])
        self.log_dict(self.test_metrics, on_step=False, on_epoch=True)
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0]).argmax(1)
    def on_predict_epoch_end(self, results):
        self.predicted = len(torch.cat(results[0]))
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams.lr, weight_decay=self.hparams.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.hparams.lr, total_steps=steps)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]

if __name__ == "__main__":
    parser = pl.Trainer.add_argparse_args(ArgumentParser())
    parser.set_defaults(max_epochs=12, accelerator="cpu", devices=1)
    args = parser.parse_args("--track_grad_norm 2 --log_every_n_steps 5 --amp_backend native".split())
    pl.seed_everything(6, workers=True)
    trainer = pl.Trainer.from_argparse_args(
        args, logger=CSVLogger("logs", flush_logs_every_n_steps=10), strategy=None, replace_sampler_ddp=True,
        callbacks=[EarlyStopping("val_loss", mode="min", patience=4), ModelCheckpoint(monitor="val_acc", mode="max"),
                   LearningRateMonitor("step"), TQDMProgressBar(refresh_rate=0)])
    model, dm = LitDigits(), DigitsDataModule()
    trainer.fit(model, dm)
    (result,) = trainer.test(datamodule=dm, ckpt_path="best")
    trainer.predict(model, datamodule=dm)
    print("RESULT", {**result, "epochs": trainer.current_epoch, "predicted": model.predicted, "devices": trainer.devices,
        "norms": trainer.track_grad_norm, "best": trainer.checkpoint_callback.best_model_score.item()})
