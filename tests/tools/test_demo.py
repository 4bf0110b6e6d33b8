"""`fulmen demo`: what a newcomer sees first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from fulmen.tools.command import main
from fulmen.tools.demo import drawing


def test_demo_reads_digits_and_says_where_things_are():
    done = subprocess.run([sys.executable, "-m", "fulmen", "demo"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"Reads ([\d.]+)% of 360 digits", done.stdout)[1])
    assert accuracy > 95
    checkpoint = Path(re.search(r"^Checkpoint +(.+)$", done.stdout, re.MULTILINE)[1])
    assert "state_dict" in torch.load(checkpoint, weights_only=True)
    folder = re.search(r"--logdir (.+)$", done.stdout, re.MULTILINE)[1]
    assert list(Path(folder).rglob("events.out.tfevents.*"))
    assert done.stdout.count("read as") == 2
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_demo_says_how_to_get_the_digits(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)

    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "The demo reads scikit-learn's handwritten digits: pip install scikit-learn\n"


def test_a_drawing_is_darker_where_there_is_ink():
    image = torch.zeros(1, 8, 8)
    image[0, 2, 3] = 1
    lines = drawing(image)
    assert (len(lines), {len(line) for line in lines}) == (8, {16})
    assert lines[2] == " " * 6 + "@@" + " " * 8
