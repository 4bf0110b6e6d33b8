"""What the user's own objects keep as they go, in attributes and random generators, is there again after a kill."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from exact.situations import ALL, Net, Noisy, OwnOrder, fit, kept, noisy
from exact.test_resume import check
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Sampler, WeightedRandomSampler

import fulmen as L


class Keeps(Net):
    """Outputs gathered by hand, running values, a state that goes from batch to batch, generators of its own."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.outputs: list[Any] = []
        self.state: Tensor | None = None
        self.smooth, self.scale = 0.0, np.float64(1)
        self.lately: deque[float] = deque(maxlen=3)
        self.by_length: dict[int, list[Tensor]] = defaultdict(list)
        self.python, self.array = random.Random(1), np.random.default_rng(2)
        self.validated: list[Tensor] = []
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.outputs.clear()
        if self.current_epoch == 1:
            self.net[0].requires_grad_(True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx) * (0.5 + self.python.random() + self.array.random())
        self.state = loss.detach() if self.state is None else 0.9 * self.state + 0.1 * loss.detach()
        self.smooth, self.scale = 0.5 * self.smooth + loss.item(), self.scale * 0.97
        self.lately.append(loss.item())
        self.by_length[len(batch[0])].append(loss.detach())
        self.outputs.append({"loss": loss, "index": batch_idx})
        self.unsaved += loss.detach()
        kept = [self.smooth, float(self.scale), sum(self.lately), float(self.unsaved.sum()), len(self.by_length)]
        self.log_dict({f"kept_{number}": value for number, value in enumerate(kept)})
        return loss * self.scale + self.state

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.loss(batch))
        super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log("validated", torch.stack(self.validated).mean())
        self.validated.clear()

    def on_train_epoch_end(self) -> None:
        self.log("outputs", torch.stack([output["loss"].detach() for output in self.outputs]).mean())
        super().on_train_epoch_end()


class History(L.Callback):
    """Without a state_dict."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["val_loss"]))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("history", sum(self.seen))


class Jitter:
    def __init__(self) -> None:
        self.numbers, self.calls = np.random.default_rng(3), 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * float(self.numbers.random()) + self.calls / 100


class Augmented(Noisy):
    def __init__(self, length: int = 10, first: int = 0) -> None:
        super().__init__(length, first)
        self.steps = [Jitter()]

    def __getitem__(self, index: int) -> Any:
        number, x = super().__getitem__(index)
        return number, self.steps[0](x)


class Around(Sampler[int]):
    def __init__(self, order: Any) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Any:
        return iter(self.order)


class Carries(BatchSampler):
    """What is left of an epoch comes first in the next one."""

    def __init__(self, order: Any) -> None:
        super().__init__(order, 3, False)
        self.left: list[int] = []

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        indices = self.left + list(self.sampler)
        self.left = indices[18:]
        return (indices[start : start + 3] for start in range(0, 18, 3))


class Weighs(Net):
    """Has hard samples drawn more often."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.trainer.train_dataloader.sampler.weights[batch[0]] = loss.detach().double()
        return loss


class Collates:
    def __init__(self) -> None:
        self.numbers = np.random.RandomState(5)

    def __call__(self, samples: Any) -> Any:
        return [part * self.numbers.rand() for part in torch.utils.data.default_collate(samples)[1:]]


def shuffled(dataset: Any, **options: Any) -> Any:
    return DataLoader(dataset, batch_size=3, shuffle=True, **options)


SITUATIONS = {
    "kept by the module": kept(Keeps),
    "kept by the module, validated within": kept(Keeps, val_check_interval=3),
    "kept by a callback": kept(callbacks=lambda: [History()]),
    "generators within": kept(train=lambda: shuffled(ConcatDataset([Augmented(), Augmented(10, 10)]))),
    "a sampler in another": kept(train=lambda: noisy(shuffle=False, sampler=Around(OwnOrder()))),
    "carried over": kept(train=lambda: DataLoader(Noisy(), batch_sampler=Carries(OwnOrder())), max_epochs=4),
    "weighed by the step": kept(
        Weighs, train=lambda: noisy(shuffle=False, sampler=WeightedRandomSampler([1.0] * 20, 20))
    ),
    "collated by chance": kept(train=lambda: noisy(collate_fn=Collates())),
}
ALL.update(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_objects_keep_is_there_again(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 9), ("val", 7)], [("train", 17)]])


def test_what_is_too_large_to_keep_is_told(tmp_path, monkeypatch):
    class Hoards(Net):
        def __init__(self, kill: Any) -> None:
            super().__init__(kill)
            self.held: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.held.append(object())
            return super().training_step(batch, batch_idx)

    monkeypatch.chdir(tmp_path)
    ALL["hoards"] = kept(Hoards, max_epochs=1)
    with pytest.warns(UserWarning, match=r"leave out Module\.held: it is too large, or not plain data"):
        fit("hoards")
