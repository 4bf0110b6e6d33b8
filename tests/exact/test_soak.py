"""200 kills at random instants, the same call each time: what is left is what an undisturbed run leaves."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from exact.situations import difference

TESTS = Path(__file__).parents[1]


def run(kills: int, folder: Path, seed: int = 0) -> str:
    path = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
    command = [sys.executable, str(TESTS / "exact" / "soak.py"), str(kills), str(folder), str(seed)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=3000)
    told = folder / "output.txt"
    assert done.returncode == 0, done.stdout + done.stderr + (told.read_text()[-3000:] if told.exists() else "")
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kills", [int(os.environ.get("SOAK_KILLS", 200))])
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(kills, tmp_path, capsys):
    faulthandler.cancel_dump_traceback_later()  # it may take longer than a test is given
    begun = time.monotonic()
    run(0, tmp_path / "whole")
    undisturbed_s = time.monotonic() - begun
    told = run(kills, tmp_path / "killed")
    with capsys.disabled():
        print(f"\n{told.strip()}; {time.monotonic() - begun:.0f} s, of which undisturbed {undisturbed_s:.0f} s")
    whole, killed = (torch.load(tmp_path / name / "remains.pt", weights_only=True) for name in ("whole", "killed"))
    assert not difference(whole, killed)
