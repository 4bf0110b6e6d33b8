# ruff: noqa (as people wrote it in the spring of 2020, for pytorch_lightning 0.7)
# fmt: off
import glob
import os
from argparse import ArgumentParser
from collections import OrderedDict

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.logging import TestTubeLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

class DigitClassifier(pl.LightningModule):
    def __init__(self, hparams):
        super(DigitClassifier, self).__init__()
        self.hparams = hparams
        self.l1 = nn.Linear(64, self.hparams.hidden_dim)
        self.l2 = nn.Linear(self.hparams.hidden_dim, 10)
    def forward(self, x):
        return self.l2(torch.relu(self.l1(x)))
    def training_step(self, batch, batch_nb):
        x, y = batch
        loss = F.cross_entropy(self.forward(x), y)
        return OrderedDict({"loss": loss, "progress_bar": {"train_loss": loss}, "log": {"train_loss": loss}})
    def validation_step(self, batch, batch_nb):
        x, y = batch
        y_hat = self.forward(x)
        val_acc = (y_hat.argmax(dim=1) == y).float().mean()
        return OrderedDict({"val_loss": F.cross_entropy(y_hat, y), "val_acc": val_acc})
    def validation_end(self, outputs):
        val_loss = torch.stack([x["val_loss"] for x in outputs]).mean()
        val_acc = torch.stack([x["val_acc"] for x in outputs]).mean()
        tqdm_dict = {"val_loss": val_loss, "val_acc": val_acc}
        return {"progress_bar": tqdm_dict, "log": tqdm_dict, "val_loss": val_loss}
    def test_step(self, batch, batch_nb):
        return {"test_acc": self.validation_step(batch, batch_nb)["val_acc"]}
    def test_end(self, outputs):
        self.test_acc = torch.stack([x["test_acc"] for x in outputs]).mean().item()
        return {"log": {"test_acc": self.test_acc}}
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)]
    def prepare_data(self):
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x / 16, dtype=torch.float), torch.tensor(y))
        self.train_set, self.val_set, self.test_set = random_split(data, [1197, 300, 300])
    @pl.data_loader
    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True)
    @pl.data_loader
    def val_dataloader(self):
        return [DataLoader(self.val_set, batch_size=100)]
    @pl.data_loader
    def test_dataloader(self):
        return DataLoader(self.test_set, batch_size=100)

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--hidden_dim", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    torch.manual_seed(1234)
    hparams = parser.parse_args()
    logger = TestTubeLogger(save_dir=os.getcwd(), name="digits", version=7)
    trainer = pl.Trainer(
        logger=logger, gpus=hparams.gpus, max_nb_epochs=50, distributed_backend=None, nb_sanity_val_steps=1,
        checkpoint_callback=ModelCheckpoint(filepath=os.path.join(os.getcwd(), "weights", "{epoch}-{val_loss:.2f}")),
        early_stop_callback=EarlyStopping(monitor="val_loss", patience=3, mode="min"), row_log_interval=10,
        show_progress_bar=False, weights_summary="top", train_percent_check=1.0, log_save_interval=20)
    trainer.fit(DigitClassifier(hparams))
    tags_csv = os.path.join(logger.save_dir, "digits", "version_7", "meta_tags.csv")
    best = DigitClassifier.load_from_metrics(weights_path=glob.glob("weights/*.ckpt")[0], tags_csv=tags_csv)
    trainer.test(best)
    print("RESULT", {"accuracy": best.test_acc, "epochs": trainer.current_epoch, "saved": glob.glob("weights/*")})
