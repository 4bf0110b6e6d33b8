# ruff: noqa (as people wrote it at the end of 2020, for pytorch_lightning 1.0)
# fmt: off
from argparse import ArgumentParser

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.metrics.functional import confusion_matrix
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset, random_split

class DigitsDataModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.batch_size, self.dims = batch_size, (64,)
    def setup(self, stage=None):
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x / 16).float(), torch.tensor(y))
        self.sets = random_split(data, [1197, 300, 300], torch.Generator().manual_seed(42))
    def train_dataloader(self, *args, **kwargs):
        return DataLoader(self.sets[0], batch_size=self.batch_size, shuffle=True)
    def val_dataloader(self, *args, **kwargs):
        return DataLoader(self.sets[1], batch_size=self.batch_size)
    def test_dataloader(self, *args, **kwargs):
        return DataLoader(self.sets[2], batch_size=self.batch_size)

class LitClassifier(pl.LightningModule):
    def __init__(self, input_dim, hidden_dim=64, learning_rate=0.02, **kwargs):
        super().__init__()
        self.save_hyperparameters("input_dim", "hidden_dim", "learning_rate")
        self.net = nn.Sequential(nn.Linear(input_dim, self.hparams.hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 10))
        self.train_acc = pl.metrics.Accuracy(compute_on_step=False)
        self.valid_acc, self.f1 = pl.metrics.Accuracy(), pl.metrics.classification.F1(num_classes=10)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.train_acc(self(x), y)
        self.log("train_loss", loss, prog_bar=True, logger=True, reduce_fx=torch.mean, tbptt_reduce_fx=torch.mean)
        return loss
    def training_epoch_end(self, outs):
        self.log("train_acc_epoch", self.train_acc.compute())
    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        self.log("valid_acc", self.valid_acc(y_hat, y), on_step=True, on_epoch=True)
        self.log("val_loss", F.cross_entropy(y_hat, y), prog_bar=True)
        return {"preds": y_hat.argmax(1), "target": y}
    def validation_epoch_end(self, outputs):
        preds, target = (torch.cat([out[key] for out in outputs]) for key in ("preds", "target"))
        self.confusion = confusion_matrix(preds, target, num_classes=10)
    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log_dict({"test_f1": self.f1(self(x), y), "test_acc": (self(x).argmax(1) == y).float().mean()})
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": "val_loss"}

if __name__ == "__main__":
    pl.seed_everything(1234)
    parser = pl.Trainer.add_argparse_args(ArgumentParser())
    parser.add_argument("--batch_size", default=32, type=int)
    args = parser.parse_args(["--max_epochs", "40", "--gpus", "0", "--progress_bar_refresh_rate", "0"])
    dm = DigitsDataModule(batch_size=args.batch_size)
    model = LitClassifier(dm.size(0), **vars(args))
    trainer = pl.Trainer.from_argparse_args(
        args, logger=CSVLogger("logs", name="digits"), checkpoint_callback=ModelCheckpoint(monitor="val_loss"),
        callbacks=[EarlyStopping(monitor="val_loss", mode="auto"), LearningRateMonitor("epoch")], weights_summary=None,
        terminate_on_nan=True, flush_logs_every_n_steps=50, log_every_n_steps=10, distributed_backend=None)
    trainer.fit(model, dm)
    (result,) = trainer.test(datamodule=dm)
    best = LitClassifier.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    print("RESULT", {**result, "epochs": trainer.current_epoch, "seen": int(model.confusion.sum()),
                     "hparams": dict(best.hparams), "keys": sorted(trainer.callback_metrics)})
