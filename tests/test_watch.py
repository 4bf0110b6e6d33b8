"""The thread that looks after a run."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fulmen.watch import Watch


def test_it_is_gone_when_the_run_ends_even_if_it_was_looking_right_then():
    looking, let_go = threading.Event(), threading.Timer(0.2, lambda: going.set())
    going = threading.Event()

    def look() -> None:
        looking.set()
        going.wait(5)

    with Watch(lambda: 0, lambda: "", look, None, lambda batches, waits: []) as watch:
        looking.wait(5)
        let_go.start()

    assert going.is_set()
    assert not watch.thread.is_alive()


def stand(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(Path(__file__).with_name("standing.py")), how]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "late"])
def test_a_rank_that_others_wait_for_says_where_it_stands_and_is_ended_at_the_limit(tmp_path, how):
    done = stand(tmp_path, how)

    assert done.returncode == 1
    assert "batch 3, rank 1; in hang (" in done.stderr
    assert "The other ranks wait for it, 6 s at most." in done.stderr or how == "late"
    assert "Ended, so that the other ranks do not wait;" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nothing tells who waits for a disk")
@pytest.mark.parametrize("how", ["data", "disk"])
def test_a_rank_that_waits_for_data_or_a_disk_goes_on_if_it_does_not_take_minutes(tmp_path, how):
    done = stand(tmp_path, how)

    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "Ended" not in done.stderr
    assert "The other ranks wait for it, 30 s at most." in done.stderr or how == "disk"
