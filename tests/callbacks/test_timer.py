"""Timer."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from callbacks.small import QUIET, Scored, fit

import fulmen as L
from fulmen.callbacks import Timer
from fulmen.callbacks import timer as timer_module
from fulmen.callbacks.timer import Interval
from fulmen.errors import MisconfigurationException
from fulmen.states import RunningStage, TrainerState


class Slow(Scored):
    """On its clock a training step takes a second, a validation step half of one, a test step a quarter."""

    now = 100.0

    def training_step(self, batch, batch_idx):
        Slow.now += 1.0
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        Slow.now += 0.5

    def test_step(self, batch, batch_idx):
        Slow.now += 0.25


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(timer_module, "time", SimpleNamespace(monotonic=lambda: Slow.now))


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("01:00:00:05", 86405.0),
        (timedelta(minutes=2), 120.0),
        ({"minutes": 1, "weeks": 2}, 1209660.0),
        (None, None),
    ],
)
def test_durations(duration, expected):
    assert Timer(duration).time_remaining() == expected


@pytest.mark.parametrize("duration", ["1:2", "soon", 3])
def test_wrong_durations(duration):
    with pytest.raises(MisconfigurationException, match=r"duration=.*DD:HH:MM:SS"):
        Timer(duration)


def test_wrong_interval_and_stage():
    with pytest.raises(MisconfigurationException, match="interval='steps'"):
        Timer(interval="steps")
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        Timer().time_elapsed("trian")


def test_training_stops_in_time():
    timer = Timer({"seconds": 6})
    trainer = fit(Slow([1.0] * 9), timer, limit_val_batches=0)

    assert trainer.global_step == 6
    assert timer.time_elapsed() == 6
    assert timer.time_remaining() == 0


def test_validation_counts_as_time_of_the_training():
    trainer = fit(Slow([1.0] * 9), Timer({"seconds": 6}))

    assert trainer.global_step == 5


def test_by_epoch_the_epoch_is_finished():
    trainer = fit(Slow([1.0] * 9), Timer({"seconds": 6}, interval=Interval.epoch), limit_val_batches=0)

    assert trainer.global_step == 8


def test_stages_are_measured_apart():
    timer, model = Timer(), Slow([1.0] * 9)
    trainer = fit(model, timer, max_epochs=2, num_sanity_val_steps=1)
    trainer.test(model, verbose=False)

    assert timer.time_elapsed("train") == 12
    assert timer.time_elapsed("validate") == 2  # the last one
    assert timer.time_elapsed("sanity_check") == 0.5
    assert timer.end_time("test") - timer.start_time("test") == timer.time_elapsed("test") == 1
    assert timer.time_elapsed("predict") == 0
    assert timer.start_time("predict") is None


def test_a_restart_has_the_time_that_is_left(tmp_path):
    model = Slow([1.0] * 9)
    fit(model, Timer({"seconds": 60}), max_epochs=1, limit_val_batches=0).save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["Timer"]
    assert state["time_elapsed"]["train"] == 4

    timer = Timer({"seconds": 6})
    trainer = L.Trainer(callbacks=[timer], **{**QUIET, "limit_val_batches": 0})
    trainer.fit(model, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 6


def test_a_restart_without_time_trains_nothing(tmp_path):
    model = Slow([1.0] * 9)
    fit(model, Timer({"seconds": 60}), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    trainer = L.Trainer(callbacks=[Timer({"seconds": 3})], **QUIET)
    trainer.fit(model, ckpt_path=tmp_path / "a.ckpt")

    assert trainer.global_step == 4


def test_a_second_fit_has_all_the_time_again():
    timer = Timer({"seconds": 2})
    fit(Slow([1.0] * 9), timer)
    assert fit(Slow([1.0] * 9), timer).global_step == 2


def test_ranks_agree_without_asking_at_each_batch():
    class Ranks:
        """A trainer with two ranks, as rank zero sees it, that counts what goes between them."""

        world_size, should_stop, asked = 2, False, 0
        state = TrainerState(stage=RunningStage.TRAINING)

        @property
        def strategy(self):
            return self

        def broadcast(self, value):
            self.asked += 1
            return value

    timer, trainer = Timer({"seconds": 60}, verbose=False), Ranks()
    timer.on_train_start(trainer, None)
    batches = 0
    while not trainer.should_stop:
        batches += 1
        Slow.now += 0.01
        timer.on_train_batch_end(trainer)

    assert 6000 <= batches < 6200
    assert trainer.asked < 100
