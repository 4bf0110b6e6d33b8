"""Each test runs in an empty folder of its own, with one torch thread and the same random numbers."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fulmen.warn import rank_zero_only, warned

SOURCE = str(Path(__file__).parents[1] / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that a test starts share the machine with other tests
os.environ.setdefault("WANDB_MODE", "offline")
torch.set_num_threads(1)
# what starts tests in the background (nohup, a shell's &) lets them ignore these, and runs that tests start too
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty at the start; what a run writes by default lands here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Nothing that one test sets for its whole process reaches the next one."""
    random.seed(0)
    torch.manual_seed(0)
    environment, rank = dict(os.environ), rank_zero_only.rank
    warned.clear()
    if "fulmen.compat.devices" in sys.modules:  # what earlier programs imported and said tells of what years they are
        sys.modules["fulmen.compat.devices"].SAID.clear()
        roots = sys.modules["fulmen.compat.names"].ROOTS
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            del sys.modules[name]
    yield
    os.environ.clear()
    os.environ.update(environment)
    rank_zero_only.rank = rank
