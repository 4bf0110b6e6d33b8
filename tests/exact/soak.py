"""A run that is killed over and over at random instants, as a program: the number of kills, the folder, the seed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from exact.situations import Killed, fit, remains

STEPS = 1000
OPTIONS: dict[str, Any] = {"max_epochs": -1, "max_steps": STEPS, "every": 5, "accumulate_grad_batches": 2}


def train() -> None:
    """The same call each time. Forked from a process that has imported everything, to be there at once."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.save(remains(fit("shuffled", **OPTIONS)), "remains.pt")


def child() -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        train()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(kills: int, folder: str, seed: int) -> None:
    Path(folder).mkdir()
    os.chdir(folder)
    draw, done, saving = random.Random(seed), 0, 0
    while True:
        pid, begun = child(), time.monotonic()
        before = traced()
        ahead = reached() > 1.5 * STEPS * done / (kills + 1)  # so that it is not over before the last kill
        wait_s = draw.uniform(0.0, 0.02 if ahead else 0.4)
        while time.monotonic() - begun < 5.0 and done < kills and traced() == before:  # until it trains
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise Killed("it ended by itself: see output.txt")
            time.sleep(0.002)
        if done >= kills:
            _, status = os.waitpid(pid, 0)
            print(f"{done} kills, {saving} of them within a save; exit status {status}")
            sys.exit(status != 0)
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        saving += any(Path(".").rglob("*.partial"))
        os.waitpid(pid, 0)
        if Path("remains.pt").exists():
            print(f"The run was over after {done} kills: it needs more steps.")
            sys.exit(2)
        done += 1


def traced() -> int:
    return os.path.getsize("trace-0.jsonl") if os.path.exists("trace-0.jsonl") else 0


def reached() -> int:
    """The last batch that was begun."""
    lines = Path("trace-0.jsonl").read_text().splitlines() if traced() else []
    return max((int(line.split(",")[0].partition(": ")[2]) for line in lines[-1:]), default=0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
