"""Rank one kills itself while rank zero sleeps and does not look."""

from __future__ import annotations

import os
import signal
import time

from fulmen import device
from fulmen.strategy import choose

strategy = choose("ddp", *device.choose("cpu", 2))


def work() -> None:
    if strategy.global_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)


strategy.launch(work)
