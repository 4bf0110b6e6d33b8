# ruff: noqa (as people write it today, for lightning 2)
# fmt: off
import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichModelSummary
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics import Accuracy, MetricCollection
from torchmetrics.classification import MulticlassF1Score

class DigitsData(L.LightningDataModule):
    def __init__(self, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
    def setup(self, stage: str) -> None:
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y))
        self.train, self.val, self.test = random_split(data, [1197, 300, 300], torch.Generator().manual_seed(42))
    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)
    def val_dataloader(self):
        return {"all": DataLoader(self.val, batch_size=100), "few": DataLoader(self.val, batch_size=30)}
    def test_dataloader(self):
        return DataLoader(self.test, batch_size=100)

    predict_dataloader = test_dataloader

class LitDigits(L.LightningModule):
    def __init__(self, net: torch.nn.Module, lr: float = 0.02) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = net
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.test_metrics = MetricCollection({"acc": self.train_acc.clone(), "f1": MulticlassF1Score(10)}, prefix="test/")
        self.validation_step_outputs = []
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)
    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        x, y = batch
        logits = self(x)
        self.train_acc(logits, y)
        self.log("train/acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
        return F.cross_entropy(logits, y)
    def validation_step(self, batch, batch_idx, dataloader_idx=0) -> None:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("val/loss", loss)
        if dataloader_idx == 0:
            self.validation_step_outputs.append(loss)
    def on_validation_epoch_end(self) -> None:
        self.log("val/mean", torch.stack(self.validation_step_outputs).mean(), prog_bar=True)
        self.validation_step_outputs.clear()  # free memory
    def predict_step(self, batch, batch_idx):
        return self(batch[0]).argmax(1)

    def test_step(self, batch, batch_idx) -> None:
        self.log_dict(self.test_metrics(self(batch[0]), batch[1]), batch_size=len(batch[1]))
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/mean"}}

if __name__ == "__main__":
    L.seed_everything(8, workers=True)
    model = LitDigits(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)))
    best = ModelCheckpoint(monitor="val/mean", filename="{epoch}-{val/mean:.3f}", auto_insert_metric_name=False)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=40, logger=[CSVLogger("csv"), TensorBoardLogger("tb")], precision="32-true",
        callbacks=[best, EarlyStopping("val/mean"), LearningRateMonitor("epoch"), RichModelSummary(2)],
        enable_progress_bar=False, deterministic=True, gradient_clip_val=5.0, log_every_n_steps=10)
    trainer.fit(model, datamodule=DigitsData())
    (result,) = trainer.test(ckpt_path="best", datamodule=DigitsData(), weights_only=True)
    predictions = torch.cat(trainer.predict(model, datamodule=DigitsData()))
    print("RESULT", {**result, "epochs": trainer.current_epoch, "predicted": tuple(predictions.shape),
        "val": sorted(key for key in torch.load(best.best_model_path, weights_only=True)["state_dict"])[:2]})
