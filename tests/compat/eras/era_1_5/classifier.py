# ruff: noqa (as people wrote it in early 2022, for pytorch_lightning 1.5 and 1.6)
# fmt: off
from typing import Any, List, Optional

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, LightningLoggerBase, TensorBoardLogger
from pytorch_lightning.plugins import DDPPlugin
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.types import EPOCH_OUTPUT, STEP_OUTPUT
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy, MaxMetric, MeanMetric

class DigitsDataModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.save_hyperparameters(logger=False)
    def setup(self, stage: Optional[str] = None):
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x / 16).float(), torch.tensor(y))
        self.sets = torch.utils.data.random_split(data, [1197, 300, 300], torch.Generator().manual_seed(42))
    def train_dataloader(self):
        return DataLoader(self.sets[0], self.hparams.batch_size, shuffle=True, drop_last=True)
    def val_dataloader(self):
        return DataLoader(self.sets[1], 100)

class LitDigits(pl.LightningModule):
    def __init__(self, lr: float = 0.02, hidden: int = 64):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
        self.train_acc, self.val_acc = (Accuracy(task="multiclass", num_classes=10) for _ in range(2))
        self.val_loss, self.val_acc_best = MeanMetric(), MaxMetric()
        self.example_input_array = torch.zeros(2, 64)
    def forward(self, x):
        return self.net(x)
    def on_train_start(self):
        self.val_acc_best.reset()  # the sanity check may have filled it
    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        logits = self(batch[0])
        self.train_acc(logits, batch[1])
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": F.cross_entropy(logits, batch[1]), "preds": logits.argmax(1), "targets": batch[1]}
    def training_epoch_end(self, outputs: EPOCH_OUTPUT):
        self.log("train/right", sum((out["preds"] == out["targets"]).sum() for out in outputs).float())
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: Optional[int] = None) -> STEP_OUTPUT:
        logits = self(batch[0])
        self.val_acc.update(logits, batch[1])
        self.val_loss.update(F.cross_entropy(logits, batch[1]))
    def validation_epoch_end(self, outputs: List[Any]):
        self.val_acc_best.update(self.val_acc.compute())
        self.log_dict({"val/loss": self.val_loss.compute(), "val/acc_best": self.val_acc_best.compute()}, prog_bar=True)
        self.val_acc.reset(), self.val_loss.reset()
    def test_step(self, batch, batch_idx):
        return self(batch[0]).argmax(1) == batch[1]
    def test_epoch_end(self, outputs):
        self.log("test/acc", torch.cat(outputs).float().mean(), rank_zero_only=True)
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "strict": True}}
    def configure_callbacks(self):
        return [EarlyStopping("val/loss", patience=3), ModelCheckpoint(monitor="val/loss", filename="{epoch:02d}")]

if __name__ == "__main__":
    pl.seed_everything(5, workers=True)
    loggers: List[LightningLoggerBase] = [CSVLogger("csv"), TensorBoardLogger("tb", log_graph=True)]
    trainer = pl.Trainer(
        gpus=0, strategy=DDPPlugin(find_unused_parameters=False) if torch.cuda.device_count() > 9 else None, 
        logger=loggers, callbacks=[ModelSummary(max_depth=-1), TQDMProgressBar(50)],
        max_epochs=40, max_steps=-1, checkpoint_callback=True, log_every_n_steps=5, move_metrics_to_cpu=True,
        multiple_trainloader_mode="max_size_cycle", track_grad_norm=-1, detect_anomaly=False, process_position=0)
    trainer.fit(model := LitDigits(), datamodule=(dm := DigitsDataModule()))
    lr = trainer.lr_schedulers[0]["scheduler"].optimizer.param_groups[0]["lr"]
    (result,) = trainer.test(model, dataloaders=DataLoader(dm.sets[2], 100), ckpt_path="best", verbose=rank_zero_only.rank == 0)
    print("RESULT", {**result, "best": model.val_acc_best.compute().item(), "gpus": trainer.num_gpus, "lr": lr})
