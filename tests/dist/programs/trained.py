"""A Trainer's run on two ranks, in which something happens to one of them: trained.py STRATEGY HOW RANK."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import fulmen as L
from fulmen import watch
from fulmen.callbacks import ModelCheckpoint

STRATEGY, HOW, RANK = (*sys.argv[1:3], int(sys.argv[3]))


class Stream(IterableDataset):
    """Rank one has fewer samples."""

    def __iter__(self):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter(torch.randn(12 if rank == 0 else 6, 4))


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        batch = batch[0] if isinstance(batch, list) else batch
        if HOW not in ("even", "uneven"):
            time.sleep(0.01)
        if batch_idx == 10 and self.global_rank == RANK and self.current_epoch == 0:
            self.happen()
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        if HOW == "nan" and batch_idx == 3 and self.global_rank == RANK:
            loss = loss * float("nan")
        return loss

    def happen(self) -> None:
        if HOW.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, HOW))
        if HOW == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if HOW == "hang":
            time.sleep(1000)
        if HOW == "alone":
            self.trainer.should_stop = True

    def validation_step(self, batch, batch_idx):
        if HOW == "val" and self.global_rank == RANK and batch_idx == 3 and self.current_epoch == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05 if HOW == "val" else 0)
        self.log("val", self.layer(batch[0]).mean(), on_step=True, sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Stops(L.Callback):
    def on_exception(self, trainer, pl_module, exception):
        place = {"steps": trainer.global_step, "weights": pl_module.layer.weight.tolist()}
        Path(f"stopped{trainer.global_rank}.json").write_text(json.dumps(place))


def main() -> None:
    L.seed_everything(1)
    for name in [name for name in vars(watch) if name.endswith("_S") and HOW == "alone"]:
        setattr(watch, name, getattr(watch, name) / 5)
    data = DataLoader(TensorDataset(torch.randn(160, 4)), batch_size=2)
    train = DataLoader(Stream(), batch_size=2) if HOW == "uneven" else data
    kept = ModelCheckpoint(dirpath="ckpt", save_last=True)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=STRATEGY, max_epochs=2, logger=False, callbacks=[kept, Stops()],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_train_batches=100, nonfinite="skip" if HOW == "nan" else None,
    )  # fmt: skip
    module = Net()
    trainer.fit(module, train, data, ckpt_path="last")
    if trainer.is_global_zero:
        saved = torch.load("ckpt/last.ckpt")
        same = torch.equal(saved["state_dict"]["layer.weight"], module.layer.weight)
        finite = bool(torch.isfinite(module.layer.weight).all())
        found = [trainer.global_step, same, finite, Path(kept.last_model_path).name, "loss" in trainer.callback_metrics]
        Path("weights.json").write_text(json.dumps(module.layer.weight.tolist()))
        Path("done.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
