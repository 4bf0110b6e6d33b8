"""Training begun with one framework goes on with the other as if nothing had happened.

The environment variable FULMEN_PEER_PYTHON names an interpreter with PyTorch Lightning, to which Fulmen is compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).parent / "programs" / "interchange.py"
PEER = os.environ.get("FULMEN_PEER_PYTHON", "")

pytestmark = [pytest.mark.exam, pytest.mark.skipif(not PEER, reason="needs FULMEN_PEER_PYTHON")]

# What the result of each setting equals: of the peer's runs "alone", four epochs at once, or "again", two and two more,
# where the peer itself loses something. First for its files in Fulmen, then for Fulmen's files in it.
EXPECTED = {
    "momentum": ("alone", "alone"),
    "scheduler": ("alone", "alone"),
    "cycle": ("alone", "alone"),
    "plateau": ("alone", "alone"),
    "accumulation": ("alone", "alone"),
    "clipping": ("alone", "alone"),
    "manual": ("alone", "alone"),
    "best": ("alone", "alone"),
    "data": ("alone", "alone"),
    "half": ("alone", "alone"),
    "bfloat16": ("alone", "alone"),
    "resumable": ("alone", "alone"),
    "double": ("alone", "again"),  # the peer rounds the weights of the file to 32 bits
    "middle": ("alone", "again"),  # it begins with the first batch again
    "validated": ("alone", "again"),  # the same behind a validation
    "dropout": ("again", "again"),  # it keeps no random states
    "plateau_at_epoch_end": ("again", "again"),  # it steps the plateau behind saving, and keeps no metrics
}


class Runs:
    """All settings in one process each time, in a folder of always the same name, for files hold absolute paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str, framework: str, epochs: int, start: str = "") -> None:
        now = self.folder / "now"
        if start:
            shutil.copytree(self.folder / start, now)
        interpreter = sys.executable if framework == "fulmen" else PEER
        paths = {"PYTHONPATH": str(PROGRAM.parents[3] / "src") if framework == "fulmen" else ""}
        words = [interpreter, str(PROGRAM), framework, str(now), str(epochs), "resume" if start else "new"]
        done = subprocess.run(words, env={**os.environ, **paths}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        now.rename(self.folder / name)

    def result(self, name: str, setting: str) -> dict[str, Any]:
        found = torch.load(self.folder / name / f"{setting}.pt", weights_only=False)
        assert "error" not in found, f"{name}: {found['error']}"
        found["stop"].pop("stopping_reason_message")  # in words of each one's own
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("interchange"))
    made.make("alone", "lightning.pytorch", 4)
    made.make("half", "lightning.pytorch", 2)
    made.make("again", "lightning.pytorch", 4, start="half")
    made.make("into_fulmen", "fulmen", 4, start="half")
    made.make("own_half", "fulmen", 2)
    made.make("from_fulmen", "lightning.pytorch", 4, start="own_half")
    return made


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


def check(result: dict[str, Any], expected: dict[str, Any]) -> None:
    parts = ("weights", "rates", "at", "stop", "scores", "given")
    assert [part for part in parts if not equal(result[part], expected[part])] == []


@pytest.mark.parametrize("setting", EXPECTED)
def test_a_file_of_the_peer_goes_on_in_fulmen(runs, setting):
    check(runs.result("into_fulmen", setting), runs.result(EXPECTED[setting][0], setting))


@pytest.mark.parametrize("setting", EXPECTED)
def test_a_file_of_fulmen_goes_on_in_the_peer(runs, setting):
    check(runs.result("from_fulmen", setting), runs.result(EXPECTED[setting][1], setting))


@pytest.mark.parametrize("setting", EXPECTED)
def test_both_make_the_same_module_from_either_file(runs, setting):
    expected = runs.result("again", setting)["loaded"]
    assert equal(runs.result("into_fulmen", setting)["loaded"], expected)
    assert equal(runs.result("from_fulmen", setting)["loaded"], expected)
