"""What a program keeps anywhere else, as it goes: in globals, closures, optimizers, loggers, on the trainer."""

from __future__ import annotations

import enum
import random
from collections import namedtuple
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from exact.situations import ALL, Killed, Net, Noisy, kept, noisy
from exact.test_resume import check
from small import make_trainer
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, Sampler, default_collate

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint.packing import Packer, unpack
from fulmen.demos import BoringModel
from fulmen.loggers import CSVLogger, Logger, TensorBoardLogger

NUMBERS, PYTHON = np.random.default_rng(1), random.Random(2)


class Global(Net):
    """Its file has generators, as scripts do; made anew with it, for a test has no new process."""

    def __init__(self, kill: Any) -> None:
        global NUMBERS, PYTHON
        super().__init__(kill)
        NUMBERS, PYTHON = np.random.default_rng(1), random.Random(2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (0.5 + PYTHON.random())


class GlobalNoise(Noisy):
    def __getitem__(self, index: int) -> Any:
        number, x = super().__getitem__(index)
        return number, x * float(NUMBERS.random())


class Ahead(Optimizer):
    """Around another one, with which it shares the groups; its steps and slow weights are in attributes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05})
        self.inner = SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.inner.param_groups
        self.steps, self.slow = 0, [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.inner.step()
        self.steps += 1
        for slow, p in zip(self.slow, (p for g in self.param_groups for p in g["params"]), strict=True):
            if self.steps % 3 == 0:
                p.copy_(slow.lerp_(p, 0.5))
        return loss


class Optimized(Net):
    def configure_optimizers(self) -> Any:
        optimizer = Ahead(self.parameters())
        return [optimizer], [{"scheduler": ExponentialLR(optimizer, 0.95), "interval": "step"}]


class Set(Net):
    """Hyperparameters and the trainer's own settings change as it goes, within an epoch too."""

    def __init__(self, kill: Any, scale: float = 1.0) -> None:
        super().__init__(kill)
        self.save_hyperparameters(ignore="kill")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            self.trainer.accumulate_grad_batches += 1
            self.hparams.scale *= 0.8
        return super().training_step(batch, batch_idx) * self.hparams.scale

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.trainer.gradient_clip_val = 0.3 / (1 + self.current_epoch)


class Meter:
    __slots__ = ("number", "total")

    def __init__(self) -> None:
        self.number, self.total = 0, 0.0


class Last(list):  # type: ignore[type-arg]
    def push(self, value: float) -> None:
        self.append(value)
        del self[:-4]


class Phase(enum.Enum):
    FIRST, SECOND = 1, 2


Move = namedtuple("Move", "index value")


@dataclass
class Sample:
    loss: float
    mean: Tensor


class Kinds(Net):
    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.meter, self.last, self.phase = Meter(), Last(), Phase.FIRST
        self.moves: list[Move] = []
        self.worst: list[Sample] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.meter.number, self.meter.total = self.meter.number + 1, self.meter.total + loss.item()
        self.last.push(loss.item())
        self.moves.append(Move(batch_idx, loss.detach()))
        self.worst = sorted([*self.worst, Sample(loss.item(), batch[1].mean(0))], key=lambda each: -each.loss)[:3]
        self.phase = Phase.SECOND if self.meter.number > 8 else self.phase
        kinds = [self.meter.total, sum(self.last), self.phase.value, sum(move.value for move in self.moves)]
        self.log_dict({f"kind {number}": float(value) for number, value in enumerate(kinds)})
        return loss + sum(each.mean.sum() for each in self.worst) * self.net[0].weight.mean()


class Averages(Net):
    """By way of `.data`, which torch does not count as a change."""

    def __init__(self, kill: Any) -> None:
        super().__init__(kill)
        self.mean, self.shadow = [torch.nn.Linear(8, 1)], torch.zeros(8)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for mean, now in zip(self.mean[0].parameters(), self.net[3].parameters(), strict=True):
            mean.data.mul_(0.9).add_(now.data, alpha=0.1)
        self.shadow.data.add_(self.net[3].weight.data[0])
        self.log("averaged", self.mean[0].weight.detach().sum() + self.shadow.sum())
        return super().training_step(batch, batch_idx)


class Relabels(Net):
    """Labels in an array of the dataset that would be too large to be copied for a comparison."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        labels = self.trainer.train_dataloader.dataset.labels
        labels[batch[0]] += batch_idx + 1
        self.log("labels", float(labels.sum()))
        return super().training_step(batch, batch_idx)


class Labelled(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.labels = np.zeros(50_000, dtype=np.int64)


class Draws(Sampler[int]):
    """One index at a time from numbers that the model draws from too, while workers are ahead of it."""

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Any:
        return (int(torch.randint(20, ())) for _ in range(20))


class Turns:
    """Its own iterator, and its samples change places for good."""

    def __init__(self) -> None:
        self.samples = [torch.arange(20), torch.rand(20, 4, generator=torch.Generator().manual_seed(1))]

    def __iter__(self) -> Any:
        order = torch.randperm(20)
        self.samples, self.at = [part[order] for part in self.samples], 0
        return self

    def __next__(self) -> Any:
        if self.at >= 20:
            raise StopIteration
        self.at += 4
        return [part[self.at - 4 : self.at] for part in self.samples]

    def __len__(self) -> int:
        return 5


def scaled(samples: Any, by: Any) -> Any:
    return [part * by.random() for part in default_collate(samples)[1:]]


def around() -> Any:
    numbers, calls = random.Random(3), 0

    def collate(samples: Any) -> Any:
        nonlocal calls
        calls += 1
        return [part * numbers.random() + calls / 100 for part in default_collate(samples)[1:]]

    return collate


class Collates:
    def __init__(self) -> None:
        self.numbers = random.Random(5)

    def collate(self, samples: Any) -> Any:
        return scaled(samples, self.numbers)


def by_partial(**options: Any) -> Any:
    return noisy(collate_fn=partial(scaled, by=np.random.default_rng(4)), **options)


SITUATIONS = {
    "globals": kept(Global, train=lambda: DataLoader(GlobalNoise(), batch_size=3, shuffle=True)),
    "globals, a worker": kept(Global, train=lambda: DataLoader(GlobalNoise(), batch_size=3, num_workers=1)),
    "an optimizer around another": kept(Optimized),
    "settings": kept(Set),
    "kinds": kept(Kinds),
    "averages": kept(Averages),
    "a large array": kept(Relabels, train=lambda: DataLoader(Labelled(), batch_size=3, shuffle=True)),
    "drawn ahead": kept(train=lambda: noisy(shuffle=False, sampler=Draws(), num_workers=2)),
    "its own iterator": kept(train=Turns),
    "collated with a partial": kept(train=by_partial),
    "collated with a partial, a worker": kept(train=lambda: by_partial(num_workers=1)),
    "collated with a closure": kept(train=lambda: noisy(collate_fn=around())),
    "collated with a method": kept(train=lambda: noisy(collate_fn=Collates().collate)),
}
ALL.update(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_a_program_keeps_is_there_again(name, tmp_path, monkeypatch):
    check(monkeypatch, tmp_path, name, [[("train", 9), ("val", 7)], [("train", 16)]])


class History(Logger):
    name, version = "history", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, *metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Falls(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        if self.global_step == 5 and not self.trainer.ckpt_path:
            raise Killed
        return loss


def run(folder: Any, saves: Any, before: Any = lambda *_: None) -> Any:
    """Started again when it falls."""
    for _ in range(2):
        trainer, module = make_trainer(default_root_dir=folder, logger=[History()], callbacks=saves(), **AUTO), Falls()
        before(trainer, module)
        try:
            trainer.fit(module, DataLoader(torch.randn(16, 32), batch_size=2))
        except Killed:
            continue
        return trainer
    return None


AUTO = {"resume": "auto", "enable_checkpointing": True, "max_epochs": 1, "log_every_n_steps": 1, "limit_val_batches": 0}


def test_rows_in_a_logger_of_the_programs_own_are_neither_doubled_nor_missing(tmp_path):
    trainer = run(tmp_path, lambda: [ModelCheckpoint(every_n_train_steps=3)])
    assert [step for step, *_ in trainer.logger.rows] == [*range(8)]


def test_loggers_that_come_in_another_order_or_are_new_go_on_each_by_its_kind(tmp_path):
    kinds = [[CSVLogger, History], [History, TensorBoardLogger, CSVLogger]]

    def other(trainer: Any, module: Any) -> None:
        trainer.loggers = [kind(tmp_path) if kind is not History else kind() for kind in kinds.pop(0)]

    trainer = run(tmp_path, lambda: [ModelCheckpoint(tmp_path / "a", every_n_train_steps=3)], other)
    history, _, csv = trainer.loggers
    assert [step for step, *_ in history.rows] == [*range(8)]
    assert len((tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()) == 1 + 8
    assert csv.version == 0


def test_the_newest_checkpoint_is_found_whichever_callback_saved_it(tmp_path):
    seldom, often = partial(ModelCheckpoint, tmp_path / "a"), partial(ModelCheckpoint, tmp_path / "b")
    trainer = run(tmp_path, lambda: [seldom(every_n_train_steps=2), often(every_n_train_steps=1)])
    assert trainer.ckpt_path.endswith("step=5.ckpt")


def test_a_validation_before_the_fit_does_not_move_the_run(tmp_path):
    def before(trainer: Any, module: Any) -> None:
        trainer.loggers = [L.pytorch.loggers.CSVLogger(tmp_path)]
        trainer.limit_val_batches = 1
        trainer.validate(module, DataLoader(torch.randn(2, 32)), verbose=False)

    trainer = run(tmp_path, lambda: [ModelCheckpoint(), ModelCheckpoint(tmp_path / "b", every_n_train_steps=2)], before)
    assert "version_0" in trainer.checkpoint_callback.best_model_path
    assert len(list(tmp_path.rglob("version_*/checkpoints"))) == 1


class Deletes:
    def __del__(self) -> None:
        raise AssertionError("code ran")


Recorded = dataclass(Deletes)


def test_records_come_back_without_code_of_theirs():
    def there_and_back(kind: str, fields: Any) -> Any:
        return unpack({"__fulmen__": "record", "value": [__name__, kind, fields]}, False, "")

    assert there_and_back("Move", [1, 2]) == Move(1, 2)
    assert there_and_back("Sample", {"loss": 1.0, "mean": 2}) == Sample(1.0, 2)  # type: ignore[arg-type]
    assert there_and_back("Recorded", {"a": 1}) == {"a": 1}
    assert there_and_back("pytest", [1]) == [1]
    assert Packer()(Move(1, 2)) == (1, 2)  # in what users save, a plain tuple as ever
