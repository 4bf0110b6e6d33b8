"""Start programs that run on two ranks, and find what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environ() -> dict[str, str]:
    """The variables of this process, without those that would make the program one of another group."""
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}


def start(program: str, *arguments: str, folder: Path, launcher: list[str] | None = None) -> subprocess.Popen[str]:
    """The program, at the head of a session of its own."""
    return subprocess.Popen(
        [*(launcher or [sys.executable]), str(PROGRAMS / program), *arguments],
        cwd=folder,
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ranks(strategy: str, *works: str, folder: Path, launcher: list[str] | None = None) -> list[dict[str, object]]:
    """The results of both ranks of programs/ranks.py."""
    code, output = finish(start("ranks.py", strategy, ",".join(works), folder=folder, launcher=launcher))
    assert code == 0, output
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[int, str]:
    """Its exit code and what it printed; it, or a process that it started, must not be there after that time."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
        limit = time.monotonic() + 5
        while (left := alive(process.pid)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not left, f"{output}\nstill there: {left}"
    finally:
        for pid in alive(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    return process.returncode, output


def alive(session: int) -> list[int]:
    """The processes of a session that are still there."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(numbers[2]) == session and state != "Z":
                found.append(int(folder.name))
    return found
