"""Published packages that are built on Lightning train the same with Fulmen.

FULMEN_PEER_PYTHON names an interpreter with PyTorch Lightning, FULMEN_PUBLISHED the folders (as PYTHONPATH has them)
with the packages and what they need besides torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compat.programs import command

PEER, FOLDERS = os.environ.get("FULMEN_PEER_PYTHON", ""), os.environ.get("FULMEN_PUBLISHED", "")
PROGRAMS = Path(__file__).parent / "published"

pytestmark = [
    pytest.mark.exam,
    pytest.mark.skipif(not (PEER and FOLDERS), reason="needs FULMEN_PEER_PYTHON and FULMEN_PUBLISHED"),
]


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))


@pytest.mark.parametrize(
    ("package", "root", "program"),
    [("gluonts", "lightning", "gluonts_feedforward"), ("lightly", "pytorch_lightning", "lightly_linear")],
)
def test_a_package_gets_the_same_losses(package, root, program):
    if not any((Path(folder) / package).is_dir() for folder in FOLDERS.split(os.pathsep)):
        pytest.skip(f"{package} is not in FULMEN_PUBLISHED")
    path = str(PROGRAMS / f"{program}.py")
    environment = {**os.environ, "PYTHONPATH": FOLDERS}
    theirs = result(subprocess.run([PEER, path], capture_output=True, text=True, env=environment, timeout=300))
    inherited = os.environ.get("PYTHONPATH", "")
    ours = result(command(["-m", "fulmen", "run", path], PYTHONPATH=os.pathsep.join([FOLDERS, inherited])))

    assert (theirs.pop("from"), ours.pop("from")) == (root, "fulmen")
    assert len(ours["losses"]) >= 18
    metrics, their_metrics = ours.pop("metrics", {}), theirs.pop("metrics", {})
    assert ours == theirs
    assert metrics.keys() == their_metrics.keys()
    for name, values in their_metrics.items():  # Lightning sums them in single precision, Fulmen in double
        assert metrics[name] == pytest.approx(values, rel=3e-7)
    print(f"\n== {package}: {len(ours['losses'])} losses equal to Lightning's, interpreter {sys.version.split()[0]}")
