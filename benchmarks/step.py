"""Microseconds of one training step: a hand-written loop, Fulmen, and Fulmen with `self.log`.

The model is as small as can be, so that what is left is the trainer itself. Medians of several rounds, taken in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L

STEPS, ROUNDS = 1000, 7


class Small(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Logging(Small):
    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(4 * STEPS, 8)), batch_size=4)


def by_hand() -> None:
    model = Small()
    optimizer = model.configure_optimizers()
    for index, batch in enumerate(loader()):
        loss = model.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fulmen(module: type[Small], folder: str) -> Callable[[], None]:
    def run() -> None:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **quiet)
        trainer.fit(module(), loader())

    return run


def main() -> None:
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = {"by hand": by_hand, "fulmen": fulmen(Small, folder), "fulmen, self.log": fulmen(Logging, folder)}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times.setdefault(name, []).append((time.perf_counter() - start) / STEPS * 1e6)
    base = statistics.median(times["by hand"])
    for name, rounds in times.items():
        median = statistics.median(rounds)
        print(f"{name:<18}{median:8.1f} us a step {median - base:+8.1f}   ({min(rounds):.1f} to {max(rounds):.1f})")


if __name__ == "__main__":
    main()
