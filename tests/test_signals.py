"""A run that is asked to end finishes its step, saves, and says by its status why it ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small import Net, make_trainer, numbers

from fulmen import signals
from fulmen.callbacks import ModelCheckpoint
from fulmen.errors import SIGTERMException
from fulmen.signals import NEVER, Ranks
from fulmen.strategy.environment import SLURMEnvironment


class Asked(Net):
    """Gets `number` within the step of batch 1, as often as said."""

    def __init__(self, number: int, times: int = 1) -> None:
        super().__init__(lr=0.1)
        self.number, self.times, self.done = number, times, 0

    def training_step(self, batch, batch_idx):
        for _ in range(self.times if batch_idx == 1 else 0):
            signal.raise_signal(self.number)
        self.done += 1
        return super().training_step(batch, batch_idx)


def trainer(**options):
    return make_trainer(callbacks=[ModelCheckpoint(dirpath="ckpt")], enable_checkpointing=True, **options)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_the_step_is_finished_and_saved_and_the_status_names_the_signal(name):
    module, number = Asked(getattr(signal, name)), getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(SIGTERMException) as stop:
        trainer().fit(module, numbers(4))

    assert stop.value.code == 128 + number
    assert module.done == 2
    assert torch.load("ckpt/interrupted.ckpt")["global_step"] == 2
    assert signal.getsignal(number) is before


def test_ctrl_c_is_a_keyboard_interrupt_behind_the_step():
    module = Asked(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(module, numbers(4))

    assert module.done == 2
    assert Path("ckpt/interrupted.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_PRESS_S", -1.0)
    module = Asked(signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(module, numbers(4))

    assert module.done == 1
    assert not Path("ckpt/interrupted.ckpt").exists()


def test_a_signal_in_validation_is_saved_before_it_is_over():
    class Module(Net):
        def validation_step(self, batch, batch_idx):
            if batch_idx == 0:
                signal.raise_signal(signal.SIGTERM)
            assert batch_idx == 0

    with pytest.raises(SIGTERMException):
        trainer().fit(Module(), numbers(2), numbers(3))

    assert torch.load("ckpt/interrupted.ckpt")["global_step"] == 2


def test_a_signal_behind_the_last_step_is_the_programs_own():
    class Module(Net):
        def on_train_end(self):
            signal.raise_signal(signal.SIGINT)

    run = trainer()
    with pytest.raises(KeyboardInterrupt):
        run.fit(Module(), numbers(2))

    assert run.global_step == 2


def test_handlers_of_the_program_stay(monkeypatch):
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        trainer().fit(Asked(signal.SIGUSR1), numbers(3))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert got == [signal.SIGUSR1]


@pytest.mark.parametrize(
    ("environment", "number", "requeued"),
    [
        (None, signal.SIGUSR1, True),
        (SLURMEnvironment(requeue_signal=signal.SIGUSR2), signal.SIGUSR2, True),
        (SLURMEnvironment(requeue_signal=signal.SIGUSR2), signal.SIGUSR1, False),
        (SLURMEnvironment(auto_requeue=False), signal.SIGUSR1, False),
    ],
)
def test_a_slurm_job_is_requeued_by_its_signal(environment, number, requeued, monkeypatch):
    Path("scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    Path("scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.getcwd()}:{os.environ['PATH']}")
    job = {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for key, value in job.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    with pytest.raises(SIGTERMException):
        trainer(plugins=environment and [environment]).fit(Asked(number), numbers(4))

    assert Path("requeued").exists() == Path("hpc_ckpt_1.ckpt").exists() == requeued
    assert Path("ckpt/interrupted.ckpt").exists() == (not requeued)


@pytest.fixture
def store():
    return dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def two_ranks(store):
    """Ranks that are certain to look again at the places 5 and 7."""
    return [Ranks(store, "fit", rank, 2, lambda place=place: place) for rank, place in enumerate([5, 7])]


def test_ranks_stop_at_the_furthest_place_that_one_of_them_may_have_come_to(two_ranks):
    first, second = two_ranks
    assert first.heard(None) is None
    assert second.heard(signal.SIGTERM) == first.heard(None) == signal.SIGTERM

    first.agree()
    assert first.end is None
    second.agree()
    first.agree()
    assert first.wait() == second.wait() == 7


def test_a_rank_that_is_done_lets_the_others_finish_too(two_ranks):
    first, second = two_ranks
    first.leave()
    second.heard(signal.SIGTERM)
    second.agree()

    assert second.wait() == NEVER


def test_a_rank_does_not_wait_for_ever_for_others(two_ranks, monkeypatch, caplog):
    monkeypatch.setattr(signals, "AGREE_S", 0.1)
    first, _ = two_ranks
    with pytest.raises(SystemExit) as stop:
        first.wait()

    assert stop.value.code == 1
    assert "not all ranks answer" in caplog.text


def test_ranks_that_stand_still_know_for_whom_they_wait(two_ranks):
    first, second = two_ranks
    assert first.late(10, waits=True) == [1]  # which says nothing
    assert second.late(10, waits=False) == [1]
    assert first.late(10, waits=True) == [1]
    assert second.late(11, waits=True) == []
    assert first.late(20, waits=True) == [1]  # what it said was of another place
