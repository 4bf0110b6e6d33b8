"""Programs put together by chance see the same of Fulmen as of the peer: hooks in their order, rows, results, weights.

FULMEN_PEER_PYTHON names an interpreter with PyTorch Lightning, FULMEN_TRACES how many programs (200).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "programs" / "traces.py"
PEER = os.environ.get("FULMEN_PEER_PYTHON", "")

pytestmark = [pytest.mark.exam, pytest.mark.skipif(not PEER, reason="needs FULMEN_PEER_PYTHON")]


def traces(framework: str, count: int) -> list[Any]:
    interpreter = sys.executable if framework == "fulmen" else PEER
    path = str(PROGRAM.parents[3] / "src") if framework == "fulmen" else ""
    seeds = "".join(f"{seed}\n" for seed in range(count))
    words, variables = [interpreter, str(PROGRAM), framework], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, env=variables, input=seeds, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_programs_put_together_by_chance_see_the_same_of_both():
    count = int(os.environ.get("FULMEN_TRACES", "200"))
    differing = {}
    for seed, (ours, theirs) in enumerate(zip(traces("fulmen", count), traces("lightning", count), strict=True)):
        pairs = zip([*ours, "end"], [*theirs, "end"], strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if first is not None:
            differing[seed] = first
    assert not differing
