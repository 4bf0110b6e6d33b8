"""Two ranks that work on and on, until one fails at the time of the file `fault`: failing.py STRATEGY HOW RANK."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

from fulmen import device
from fulmen.strategy import Strategy, choose


def work(strategy: Strategy, how: str, rank: int) -> None:
    for step in range(2000):
        if step == 5:
            Path(f"pid{strategy.global_rank}").write_text(str(os.getpid()))
            strategy.barrier()
            Path("fault").touch()
            if strategy.global_rank == rank:
                fail(how)
        if step > 5 and how == "after":
            return
        strategy.reduce(torch.ones(2))
        time.sleep(0.01)


def fail(how: str) -> None:
    if how == "raise":
        raise ValueError("a mistake on one rank")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(0)
    if how == "sysexit":
        sys.exit(3)


def main(name: str, how: str, rank: str) -> None:
    if how == "early" and "LOCAL_RANK" in os.environ:
        sys.exit(5)
    strategy = choose(name, *device.choose("cpu", 2))
    strategy.launch(partial(work, strategy, how, int(rank)))
    if how == "after" and strategy.global_rank == int(rank):
        raise KeyError("later")
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
