"""A run that goes on does nothing twice that it did before, and finds what grew as it went."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from exact.situations import ALL, Net, Noisy, difference, fit, kept
from exact.test_resume import Killed, check
from small import make_trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.aggregation import RunningMean
from torchmetrics.wrappers import MetricTracker

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.demos import BoringModel


class HooksOnce(Net):
    """Hooks of a start that change rates, weights, groups, modes."""

    def on_train_start(self) -> None:
        self.net[0].weight.data.mul_(1.1)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        optimizer = self.optimizers().optimizer
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        if self.current_epoch == 1:
            self.net[3].weight.data.mul_(0.5)
            optimizer.add_param_group({"params": list(self.net[2].parameters()), "lr": 0.003})
            self.net[2].eval()

    def configure_optimizers(self) -> Any:
        return SGD([*self.net[0].parameters(), *self.net[3].parameters()], 0.05, momentum=0.9)


class Meter:
    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, value: float) -> None:
        self.values.append(value)


class Grows(Net):
    """A buffer and a list of metrics get longer; a meter and networks that are nobody's part."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.register_buffer("bank", torch.zeros(0, 4))
        self.tracker = MetricTracker(MeanMetric(), maximize=False)
        self.meters = {"loss": Meter()}
        self.averaged = [torch.nn.Linear(8, 1)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.bank = torch.cat([self.bank, batch[1]])[-10:]
        self.meters["loss"].update(loss.item())
        with torch.no_grad():
            for mean, now in zip(self.averaged[0].parameters(), self.net[3].parameters(), strict=True):
                mean.lerp_(now, 0.1)
        self.log("kept", sum(self.meters["loss"].values) + self.averaged[0].weight.detach().sum())
        return loss + self.bank.mean() * self.net[0].weight.mean()

    def on_validation_epoch_start(self) -> None:
        self.tracker.increment()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.tracker.update(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("best", self.tracker.best_metric())


class Begins(Net):
    """Metrics that each epoch begins anew, and one that counts in an attribute."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.total, self.lately = SumMetric(), RunningMean(window=4)
        self.tracker = MetricTracker(MeanMetric(), maximize=False)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.total.reset()
        self.tracker.increment()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        for metric in (self.total, self.lately, self.tracker):
            metric.update(loss.detach())
        self.log_dict({"total": self.total.compute(), "lately": self.lately.compute()})
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("best", self.tracker.best_metric() + len(self.tracker))


class Reloads(Net):
    """Makes its loaders anew from what it has chosen so far, which they share with it."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.pool, self.loads = [0, 1, 2, 3, 4, 5], 0

    def train_dataloader(self) -> Any:
        self.loads += 1
        return DataLoader(
            torch.utils.data.Subset(Noisy(), self.pool), batch_size=1 + self.loads, shuffle=True, drop_last=True
        )

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.pool.extend(range(len(self.pool), len(self.pool) + 5))


class Replay(IterableDataset[Any]):
    def __init__(self, memory: list[Tensor]) -> None:
        self.memory = memory

    def __iter__(self) -> Any:
        for _ in range(6):
            chosen = torch.randint(len(self.memory), (3,))
            yield chosen, torch.stack([self.memory[index] for index in chosen.tolist()])


class Plays(Net):
    """Its data are what it has seen."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.memory = [torch.ones(4), torch.zeros(4)]

    def train_dataloader(self) -> Any:
        return DataLoader(Replay(self.memory), batch_size=None)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.memory.append(torch.rand(4))
        return super().training_step(batch, batch_idx)


class Rollout(IterableDataset[Any]):
    def __init__(self, play: Any) -> None:
        self.play = play

    def __iter__(self) -> Any:
        return self.play()


class Rolls(Net):
    """Plays with the weights of the moment: where it stands depends on all before."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.place = torch.zeros(4)

    def play(self) -> Any:
        for number in range(14):
            self.place = torch.tanh(self.place + torch.rand(4) + self.net[3].weight.detach()[0, :4])
            yield number, self.place

    def train_dataloader(self) -> Any:
        return DataLoader(Rollout(self.play), batch_size=2)


@dataclass
class Collates:
    """Without a hash."""

    seen: int = 0

    def __call__(self, samples: Any) -> Any:
        self.seen += 1
        number, x = torch.utils.data.default_collate(samples)
        return number, x + self.seen / 100


class Counter:
    """Gives out what it goes on changing."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {"batches": []}

    def state_dict(self) -> dict[str, Any]:
        return self.held

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held = state


class Counts(L.Callback, Counter):
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.held["batches"].append(batch_idx)
        pl_module.log("counted", float(len(self.held["batches"])), reduce_fx="max")


class CountsToo(Net):
    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.counter = Counter()
        self.register_buffer("bank", torch.zeros(0))
        self.register_buffer("validated", torch.zeros(()))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.bank, self.validated = torch.cat([self.bank, batch[1].sum()[None]])[-7:], self.validated + 1
        self.counter.held["batches"].append(batch_idx)
        self.log("total", self.bank.sum() + self.validated + len(self.counter.held["batches"]), reduce_fx="max")


SITUATIONS = {
    "hooks once": kept(HooksOnce, max_epochs=4),
    "grows": kept(Grows, val_check_interval=3),
    "begins anew": kept(Begins, val_check_interval=3),
    "loads anew": kept(Reloads, reload_dataloaders_every_n_epochs=1, max_epochs=4),
    "its own memory": kept(Plays),
    "rollouts": kept(Rolls),
    "a dataclass": kept(train=lambda: DataLoader(Noisy(), batch_size=3, shuffle=True, collate_fn=Collates())),
}
ALL.update(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_a_start_does_once_more_is_undone(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 9), ("val", 12)], [("train", 3), ("train", 6)]], every=2)


def test_a_validation_that_is_asked_to_end_counts_once(tmp_path, monkeypatch):
    ALL["counts"] = kept(CountsToo, callbacks=lambda: [Counts()], val_check_interval=3)
    check(monkeypatch, tmp_path, "counts", [[("asked in val", 3), ("val", 6)], [("asked in val", 12)]], every=2)


class Curriculum(L.LightningDataModule):
    """Its loaders are made of what it keeps, in a state_dict, and what it keeps goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.level, self.split = 1, torch.randperm(20).tolist()

    def train_dataloader(self) -> Any:
        samples = torch.utils.data.Subset(Noisy(), self.split[: 6 * self.level])
        return DataLoader(samples, batch_size=2, shuffle=True)

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "split": self.split}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.level, self.split = state["level"], state["split"]


class Raises(BoringModel):
    """Raises the level as it goes, and falls at step `last`."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.seen = last, []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == self.last:
            raise Killed
        self.seen.append(batch[0].tolist())
        self.trainer.datamodule.level = min(3, 1 + self.global_step // 2)
        return self.layer(torch.ones(2, 32)).sum()

    @classmethod
    def start(cls, folder: Path, last: int = 99, seed: int = 1, **options: Any) -> Any:
        torch.manual_seed(seed)
        module, keeps = cls(last), [ModelCheckpoint(folder, every_n_train_steps=1)]
        trainer = make_trainer(resume="auto", callbacks=keeps, enable_checkpointing=True, **options)
        with suppress(Killed):
            trainer.fit(module, datamodule=Curriculum())
        return module


def test_loaders_are_made_of_what_a_datamodule_kept_then(tmp_path):
    options: Any = {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 2}
    killed = [Raises.start(tmp_path / "killed", last, seed=last, **options) for last in (4, 99)][-1]
    assert killed.seen == Raises.start(tmp_path / "undisturbed", seed=4, **options).seen


class Lazy(Raises):
    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.layer = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False), nn.LazyLinear(2))


def test_layers_that_wait_for_their_shapes_go_on(tmp_path):
    killed = [Lazy.start(tmp_path / "killed", last) for last in (0, 2, 99)][-1]
    assert not difference(killed.state_dict(), Lazy.start(tmp_path / "undisturbed").state_dict())


def test_a_start_that_was_killed_before_it_began_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def kill(place: str, count: int) -> None:
        if place == "val" and not L.Trainer.started:  # type: ignore[attr-defined]
            raise Killed

    monkeypatch.setattr(L.Trainer, "started", False, raising=False)
    for _ in range(2):
        with pytest.raises(Killed):
            fit("shuffled", kill)
    L.Trainer.started = True  # type: ignore[attr-defined]
    fit("shuffled", kill)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["version_0"]
    assert not list(tmp_path.rglob(".begins*"))
