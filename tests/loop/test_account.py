"""The account of a fit: which part took the time, and a line where that was the data."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from small import Net, Rows, Validated, make_trainer, numbers
from torch.utils.data import DataLoader, Dataset

from fulmen.batched import batched
from fulmen.callbacks import LambdaCallback
from fulmen.combined import CombinedLoader
from fulmen.loop import account
from fulmen.loop.account import PARTS, Account


def nap(*args: Any, **kwargs: Any) -> None:
    time.sleep(0.02)


class Slow(Dataset[Any]):
    def __init__(self, length: int = 6, seconds: float = 0.02) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.ones(2)


class SlowRows(Rows):
    log_metrics = nap


class SlowStep(Net):
    def training_step(self, batch, batch_idx):
        nap()
        self.log("loss", batch.mean())
        return super().training_step(batch, batch_idx)


class SlowMove(Net):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        nap()
        return batch


class SlowValidation(Validated):
    def validation_step(self, batch, batch_idx):
        nap()


def fitted(module: Any = None, loader: Any = None, validation: Any = None, **options: Any) -> Account:
    trainer = make_trainer(**options)
    assert trainer.account is None
    trainer.fit(module or Net(), loader or numbers(6), validation)
    return trainer.account


def only(kept: Account, *names: str) -> None:
    """These took 0.12 s each, all else next to nothing, and nothing counts twice."""
    seconds = kept.seconds()
    assert sum(seconds[name] for name in PARTS) == pytest.approx(seconds["total"])
    for name in names:
        assert 0.1 < seconds[name] < 0.4, seconds
    assert all(seconds[name] < 0.09 for name in PARTS if name not in names), seconds


def test_data_and_step():
    only(fitted(SlowStep(), DataLoader(Slow())), "data", "step")


def test_transfer():
    only(fitted(SlowMove()), "transfer")


def test_callbacks_behind_a_step_and_an_epoch():
    only(fitted(callbacks=[LambdaCallback(on_train_batch_end=nap)]), "callbacks")
    only(fitted(callbacks=[LambdaCallback(on_train_epoch_end=nap)], max_epochs=6), "callbacks")


def test_logging_is_not_a_callback():
    class Logged(Net):
        def training_step(self, batch, batch_idx):
            self.log("loss", batch.mean())
            return super().training_step(batch, batch_idx)

    only(fitted(Logged(), logger=SlowRows(), log_every_n_steps=1), "logging")


def test_validation_within_an_epoch_and_at_its_end():
    only(fitted(SlowValidation(), validation=numbers(2), val_check_interval=2), "validation")


def test_numbers_are_there_while_it_runs_and_stay_behind():
    seen = []
    callback = LambdaCallback(on_train_batch_end=lambda trainer, *rest: seen.append(trainer.account.total))
    kept = fitted(callbacks=[callback])
    assert seen == sorted(seen)
    assert seen[-1] < kept.total == kept.total
    assert kept.batches == 6
    assert "data=" in repr(kept)


@pytest.mark.parametrize(("seconds", "told"), [(0.02, True), (0.0, False)])
def test_a_fit_that_was_held_up_ends_with_a_line(seconds, told, caplog, monkeypatch):
    monkeypatch.setattr(account, "LEAST_WAIT_S", 0.05)
    with caplog.at_level("INFO", "fulmen"):
        kept = fitted(loader=DataLoader(Slow(seconds=seconds)))
    lines = [r.message for r in caplog.records if "for its data" in r.message]
    assert len(lines) == told
    if told:
        assert caplog.records[-1].message == lines[0]
        assert lines[0].startswith(f"Training waited {kept.data + kept.opening:.1f} s of {kept.total:.1f} s")
        assert " ms a batch" in lines[0]


def held(load_s: float, rest_s: float, loader: Any = None, opening: float = 0.0, processes: int = 1) -> Any:
    """The line behind 1,000 batches."""
    kept = Account()
    kept.batches, kept.data, kept.opening = 1000, load_s * 1000, opening
    kept.begun, kept.ended = 100.0, 100.0 + (load_s + rest_s) * 1000 + opening
    return kept.held_up(loader or DataLoader(Slow()), processes)


@pytest.fixture
def _eight_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("load_s", "rest_s", "workers", "options", "advice"),
    [
        (0.020, 0.010, 0, {}, "num_workers=2) would save 67% "),
        (0.100, 0.001, 0, {}, "num_workers=7) would save 86% "),
        (0.020, 0.010, 0, {"processes": 4}, "num_workers=1) would save 33% "),
        (0.100, 0.001, 0, {"processes": 4}, "No core is left"),
        (0.100, 0.001, 0, {"processes": 8}, "No core is left"),
        (0.020, 0.010, 2, {}, "num_workers=6) would save 67% "),
        (0.020, 0.001, 7, {}, "No core is left"),
        (0.001, 0.005, 2, {"opening": 30.0}, "persistent_workers=True"),
        (0.004, 0.001, 0, {}, "__getitems__"),
        (0.004, 0.001, 0, {"loader": batched(DataLoader(torch.ones(4, 2)))}, "higher batch_size"),
        (0.020, 0.010, 0, {"loader": iter([])}, "list_iterator"),
        (0.020, 0.010, 0, {"loader": CombinedLoader([[1], [2]])}, "combined"),
    ],
)
def test_what_would_help(load_s, rest_s, workers, options, advice):
    line = held(load_s, rest_s, **{"loader": DataLoader(Slow(), num_workers=workers), **options})
    assert advice in line
    assert "\n" not in line


def test_short_waits_and_small_shares_are_not_worth_a_line():
    assert held(0.002, 0.001) is None
    assert held(0.010, 0.090) is None


def test_waits_during_which_the_device_computes_do_not_count():
    kept, answers = Account(), iter([True, False, False, False])
    assert list(kept.watched(iter(range(70)), lambda: next(answers))) == list(range(70))
    assert (kept.sampled, kept.idle_share) == (4, 0.25)
    kept.batches, kept.data, kept.begun, kept.ended = 70, 40.0, 0.0, 100.0
    assert kept.held_up(iter([]), 1) is None
    kept.idle = 4
    assert "40.0 s of 100.0 s (40%)" in kept.held_up(iter([]), 1)
