"""When one of two ranks fails, the other ends soon, with a status that is not 0, and says what happened where."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from dist.start import TORCHRUN, alive, finish, start


def failing(folder: Path, how: str, rank: int, strategy: str = "ddp", launcher: list[str] | None = None):
    """Exit code, output and the seconds from the fault to the end of all processes."""
    process = start("failing.py", strategy, how, str(rank), folder=folder, launcher=launcher)
    code, output = finish(process)
    fault = folder / "fault"
    return code, output, time.time() - fault.stat().st_mtime if fault.exists() else 0.0


def until_both_work(folder: Path, session: int) -> None:
    limit = time.monotonic() + 60
    while not (folder / "fault").exists():
        assert time.monotonic() < limit, alive(session)
        time.sleep(0.05)


def test_an_error_on_rank_one_is_told_by_rank_zero(tmp_path):
    code, output, seconds = failing(tmp_path, "raise", rank=1)

    assert code == 1
    assert "rank 1 failed: ValueError: a mistake on one rank" in output
    assert seconds < 10


def test_when_rank_zero_is_killed_the_other_one_ends(tmp_path):
    process = start("failing.py", "ddp", "nothing", "5", folder=tmp_path)
    until_both_work(tmp_path, process.pid)
    os.kill(process.pid, signal.SIGKILL)
    begin = time.monotonic()
    code, _ = finish(process)

    assert code == -signal.SIGKILL
    assert time.monotonic() - begin < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rank", "message"),
    [
        ("raise", 0, "ValueError: a mistake on one rank"),
        ("kill", 1, "was killed by SIGKILL"),
        ("exit", 1, "ended early with exit code 0"),
        ("sysexit", 1, "rank 1 failed: SystemExit: 3"),
        ("early", 1, "ended early with exit code 5"),
        ("after", 1, "KeyError: 'later'"),
        ("after", 0, "KeyError: 'later'"),
    ],
)
def test_whatever_happens_on_a_rank_ends_the_others(tmp_path, how, rank, message):
    code, output, seconds = failing(tmp_path, how, rank)

    assert code == 1
    assert message in output
    assert f"rank {rank} " in output or f"[rank{rank}]" in output
    assert seconds < 10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("how", "rank", "message"),
    [
        ("raise", 1, "rank 1 failed: ValueError: a mistake on one rank"),
        ("kill", 1, "rank 1 was killed by SIGKILL"),
    ],
)
def test_processes_started_for_one_call_fail_together(tmp_path, method, how, rank, message):
    code, output, seconds = failing(tmp_path, how, rank, strategy=f"ddp_{method}")

    assert code == 1
    assert message in output
    assert seconds < 10


@pytest.mark.slow
def test_under_torchrun_the_other_ranks_know_what_happened(tmp_path):
    code, output, _ = failing(tmp_path, "raise", rank=1, launcher=TORCHRUN)

    assert code == 1
    assert "[rank0]: RuntimeError: rank 1 failed: ValueError: a mistake on one rank" in output


@pytest.mark.slow
def test_a_rank_that_cannot_notice_is_ended(tmp_path):
    """Rank zero sits in a call that does not return when the other one dies."""
    process = start("stuck.py", folder=tmp_path)
    code, output = finish(process)

    assert code == 1
    assert "was killed by SIGKILL" in output


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_are_ended(tmp_path):
    """One of them stops the training by itself."""
    code, output = finish(start("trained.py", "ddp", "alone", "1", folder=tmp_path))

    assert code == 1
    assert "waiting for the other ranks" in output
    assert "Ended. Every rank waits for the others, each in something else: one of them did alone" in output


@pytest.mark.slow
def test_an_interrupted_program_takes_its_processes_along(tmp_path):
    process = start("failing.py", "ddp", "nothing", "5", folder=tmp_path)
    until_both_work(tmp_path, process.pid)
    os.kill(process.pid, signal.SIGINT)
    code, output = finish(process)

    assert code != 0
    assert "KeyboardInterrupt" in output
