"""Two ranks that see different scores: what they decide by them, and what a resumed run has, in rank<N>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen.callbacks import EarlyStopping, ModelCheckpoint


class Net(L.LightningModule):
    """Rank zero's score gets worse with each epoch, that of rank one better."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.found: dict[str, Any] = {}

    def on_train_start(self) -> None:
        self.resumed = self.trainer.ckpt_path is not None
        self.found["before"] = self.net[1].running_mean.tolist()

    def training_step(self, batch, batch_idx):
        return self.net(batch[0] + self.global_rank).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        if self.trainer.global_step == 4 and not self.resumed:
            self.found["saved"] = self.net[1].running_mean.tolist()
            self.trainer.save_checkpoint("end.ckpt")

    def validation_step(self, batch, batch_idx):
        self.found["validated"] = self.net[1].running_mean.tolist()
        epoch = float(self.current_epoch)
        self.log("score", -epoch if self.global_rank else epoch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        plan = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plan, "monitor": "score"}}


def fit(max_epochs: int, ckpt_path: str | None = None) -> tuple[dict[str, Any], L.Trainer]:
    L.seed_everything(1, verbose=False)
    data = DataLoader(TensorDataset(torch.randn(16, 4)), batch_size=4)
    kept = ModelCheckpoint("ckpt", "{epoch}", monitor="score")
    stop = EarlyStopping("score", patience=2)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, max_epochs=max_epochs, logger=False, callbacks=[kept, stop],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    module = Net()
    trainer.fit(module, data, data, ckpt_path=ckpt_path)
    group = trainer.optimizers[0].param_groups[0]
    best = Path(kept.best_model_path).name
    return {**module.found, "epochs": trainer.current_epoch, "lr": group["lr"], "best": best}, trainer


if __name__ == "__main__":
    first, trainer = fit(2)
    again, _ = fit(9, "end.ckpt")
    Path(f"rank{trainer.global_rank}.json").write_text(json.dumps({"first": first, "again": again}))
