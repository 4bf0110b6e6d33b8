"""Programs from outside the repository, run as they are: `make exam` prints what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"

pytestmark = [pytest.mark.exam, pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared")]


def run(program: str, *words: str) -> str:
    command = [sys.executable, str(SHARED / program), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"\n== {program} {' '.join(words)}\n{done.stdout}", end="")
    assert done.returncode == 0
    return done.stdout


def test_programs_of_today_train_with_fulmen(monkeypatch):
    torchvision = Path(sys.prefix) / "exams"  # where `make exam` puts it
    monkeypatch.setenv("PYTHONPATH", str(torchvision), prepend=os.pathsep)
    assert "2 passed, 0 failed" in run("exams/seeds.py", "--native")


def test_every_mistake_can_be_judged():
    run("faults/r10_mistakes.py", "--root", "fulmen")


def test_public_names_can_be_counted():
    run("exams/names.py", "--root", "fulmen")


def test_calls_of_a_step_can_be_counted():
    run("bench/calls_per_step.py", "--root", "fulmen")
    run("bench/calls_per_step.py", "--root", "fulmen", "--log")
