"""One of several ranks, as far as its watch knows, stands still in a step, with all times a tenth of what they are.

standing.py HOW: "hang"; "late", after it has computed for long; "data", where they are fetched; "disk", while a process
of its own waits for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from fulmen import watch

PIPE = "pipe"


def work(seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        sum(range(1000))


def hang() -> None:
    time.sleep(9)


def happen(how: str) -> None:
    if how == "late":
        work(3)
    if how == "disk":
        os.mkfifo(PIPE)  # whoever starts a process is in such a wait until its files are open
        files = [(os.POSIX_SPAWN_OPEN, 0, PIPE, os.O_RDONLY, 0)]
        wait = f"import os; os.posix_spawn('/bin/true', ['true'], {{}}, file_actions={files})"
        subprocess.Popen([sys.executable, "-c", wait])
    hang()


def main(how: str) -> None:
    for name in (name for name in vars(watch).copy() if name.endswith("_S")):
        setattr(watch, name, getattr(watch, name) / 10)
    step: dict = {}
    exec(compile("def step(happen, how):\n    happen(how)", watch.FETCH if how == "data" else watch.STEP, "exec"), step)
    with watch.Watch(lambda: 0, lambda: "batch 3, rank 1", lambda: None, lambda told: None, lambda batches, waits: []):
        step["step"](happen, how)
    print("went on", flush=True)
    if how == "disk":
        os.close(os.open(PIPE, os.O_WRONLY))


if __name__ == "__main__":
    main(sys.argv[1])
