"""Microseconds of one training step: a hand-written loop, Fulmen, and Fulmen with `self.log`.

The model is as small as can be, so that what is left is the trainer itself. Each figure is the difference between a
long and a short run, so that what happens once a run is left out; of several rounds, taken in turn, the best counts.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L

SHORT, LONG, ROUNDS = 100, 1600, 7


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


def loader(steps: int) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(4 * steps, 8)), batch_size=4)


def by_hand(steps: int) -> None:
    model = Small()
    optimizer = model.configure_optimizers()
    for index, batch in enumerate(loader(steps)):
        loss = model.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fulmen(module: type[Small], folder: str) -> Callable[[int], None]:
    def run(steps: int) -> None:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **quiet)
        trainer.fit(module(), loader(steps))

    return run


def main() -> None:
    torch.set_num_threads(1)
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        runs = {"by hand": by_hand, "fulmen": fulmen(Small, folder), "fulmen, self.log": fulmen(Logging, folder)}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                for steps in (SHORT, LONG):
                    start = time.perf_counter()
                    run(steps)
                    seconds[name, steps].append(time.perf_counter() - start)
    best = {name: (min(seconds[name, LONG]) - min(seconds[name, SHORT])) / (LONG - SHORT) * 1e6 for name in runs}
    for name, microseconds in best.items():
        print(f"{name:<18}{microseconds:8.1f} us a step {microseconds - best['by hand']:+8.1f}")


if __name__ == "__main__":
    main()
