"""The command with which a program is run again; tests/dist runs whole programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from fulmen.strategy.children import command
if len(sys.argv) > 2:
    os.chdir(sys.argv[2])
print(json.dumps(command()[1:]))
"""


def command(*words: str, folder) -> list[str]:
    return json.loads(subprocess.check_output([sys.executable, *words], cwd=folder, text=True))


slow = pytest.mark.slow  # each starts a program that imports torch


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["train.py"], marks=slow),
        pytest.param(["./train.py"], marks=slow),
        ["-u", "train.py", "--lr", ".."],
    ],
)
def test_a_script_is_found_from_any_folder(tmp_path, words):
    (tmp_path / "train.py").write_text(PROGRAM)
    expected = [str(tmp_path / "train.py") if word.endswith("train.py") else word for word in words]

    assert command(*words, folder=tmp_path) == expected


def test_a_module_is_run_as_a_module(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "train.py").write_text(PROGRAM)

    assert command("-m", "package.train", "--lr", folder=tmp_path) == ["-m", "package.train", "--lr"]


@slow
def test_a_program_on_the_command_line_is_run_again(tmp_path):
    assert command("-c", PROGRAM, folder=tmp_path) == ["-c", PROGRAM]


@slow
def test_a_program_from_standard_input_cannot_be_run_again():
    text = "from fulmen.strategy.children import command; command()"
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True)

    assert "not possible in a notebook or an interactive session" in done.stderr
