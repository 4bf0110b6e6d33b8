"""What two ranks get from predict, in rank<N>.json; then an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import fulmen as L


class Net(L.LightningModule):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        rows = batch if isinstance(batch, torch.Tensor) else batch[0]
        return {"rows": rows.tolist(), "largest": rows.max()}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(4.0))


def rows(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count)))


def plain(outputs: Any) -> Any:
    if isinstance(outputs, list):
        return [plain(output) for output in outputs]
    return outputs["rows"], float(outputs["largest"])


if __name__ == "__main__":
    trainer = L.Trainer(accelerator="cpu", devices=2, logger=False, enable_progress_bar=False)
    sevens = DataLoader(rows(7), batch_size=2)
    found = {
        "own": plain(trainer.predict(Net(), sevens)),
        "all": plain(trainer.predict(Net(), sevens, return_predictions="all")),
        "two": plain(trainer.predict(Net(), [sevens, DataLoader(rows(2), batch_size=3)], return_predictions="all")),
        "none": trainer.predict(Net(), sevens, return_predictions=False),
        "loader": [trainer.predict_dataloaders.sampler.rank, len(trainer.predict_dataloaders), len(sevens)],
    }
    Path(f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
    trainer.predict(Net(), DataLoader(Stream()), return_predictions="all")
