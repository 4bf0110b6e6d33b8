"""Runs on two ranks that are ended and started again: resumed.py HOW."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.loggers import CSVLogger

HOW = sys.argv[1]


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.validated = 0

    def training_step(self, batch, batch_idx):
        if HOW == "falls" and self.global_step == 4:
            raise RuntimeError("planned")
        time.sleep(0.05 if HOW == "others" else 0)
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.validated += 1
        if HOW == "others" and self.global_rank == 0 and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1 if HOW == "others" else 0)  # until the ranks have agreed on where to stop
        self.log("val", self.layer(batch).mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Swaps(L.Callback):
    """Other weights stand in while rank one validates, and nowhere else."""

    def on_validation_start(self, trainer, pl_module):
        self.own = pl_module.layer.weight.detach().clone()
        pl_module.layer.weight.data.mul_(2.0 if trainer.global_rank == 1 else 1.0)

    def on_validation_end(self, trainer, pl_module):
        pl_module.layer.weight.data.copy_(self.own)

    def on_exception(self, trainer, pl_module, exception):
        held = {"validated": pl_module.validated, "weights": pl_module.layer.weight.tolist()}
        Path(f"stopped{trainer.global_rank}.json").write_text(json.dumps(held))


def main() -> None:
    L.seed_everything(1)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=CSVLogger("."), resume="auto",
        callbacks=[Swaps()] if HOW == "others" else [], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    logger = trainer.logger
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if rank:  # as if it had looked a moment later, when there was one more run
        logger._version = logger.version + 3
    kept = ModelCheckpoint(os.path.join(logger.log_dir, "kept"), every_n_train_steps=2)
    trainer.callbacks.append(kept)
    trainer.fit(Net(), DataLoader(torch.randn(24, 4), batch_size=2), DataLoader(torch.randn(80, 4), batch_size=2))
    held = {"folder": kept.dirpath, "best": kept.best_model_path, "steps": trainer.global_step}
    Path(f"done{rank}.json").write_text(json.dumps({**held, "from": str(trainer.ckpt_path)}))


if __name__ == "__main__":
    main()
