"""Real kills of real processes: one, two ranks, and under torchrun, which starts them again by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exact.situations import ALL, FOR_RANKS, difference

TESTS = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--max-restarts=3")


def start(folder: Path, name: str, kills: Any = (), rank: int = 0, launcher: Any = (), **options: Any) -> int:
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
    arguments = [str(TESTS / "exact" / "program.py"), name, json.dumps(options), json.dumps(kills), str(rank)]
    environment = {**os.environ, "PYTHONPATH": path, "FULMEN_TEST": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], cwd=folder, env=environment, capture_output=True, timeout=200
    )
    (folder / "output.txt").write_bytes(done.stdout + done.stderr)
    return done.returncode


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def left(folder: Path) -> Any:
    assert (folder / "remains.pt").exists(), (folder / "output.txt").read_text()[-3000:]
    return torch.load(folder / "remains.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["accumulated", "persistent workers", "stateful workers", "combined workers", "stream"]
)
def test_one_process_is_killed_and_started_again(name, tmp_path):
    assert name in ALL
    assert start(tmp_path / "whole", name) == 0
    kills = [("train", 4), ("val", 7), ("train", 12)]
    codes = [start(tmp_path / "killed", name, kills) for _ in range(len(kills) + 1)]
    assert codes == [-9, -9, -9, 0]
    assert not difference(left(tmp_path / "whole"), left(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", FOR_RANKS)
def test_two_ranks_go_on_whichever_was_killed(name, rank, tmp_path):
    together = {"devices": 2, "strategy": "ddp"}
    assert start(tmp_path / "whole", name, **together) == 0
    later = [("val", 3), ("train", 5), ("val", 7)] if "within" in name else [("val", 4), ("train", 7), ("val", 8)]
    kills = [("train", 0), *later]  # the first one before anything was saved but the beginning
    codes = [start(tmp_path / "killed", name, kills, rank, **together) for _ in range(len(kills) + 1)]
    assert 0 not in codes[:-1]
    assert codes[-1] == 0
    assert not difference(left(tmp_path / "whole"), left(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "standalone"), [(1, True), (2, True), (2, False)])
def test_torchrun_starts_a_killed_run_again_and_it_goes_on(processes, standalone, tmp_path):
    together = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    launcher = (
        *TORCHRUN,
        "--standalone" if standalone else f"--master-port={free_port()}",
        f"--nproc-per-node={processes}",
    )
    assert start(tmp_path / "whole", "shares", **together) == 0
    kills = [("train", 4), ("train", 9)]
    assert start(tmp_path / "killed", "shares", kills, processes - 1, launcher, **together) == 0
    assert not difference(left(tmp_path / "whole"), left(tmp_path / "killed"))
