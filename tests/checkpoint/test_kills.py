"""Processes killed while they save: what has a checkpoint's name is whole, and nothing that was saved is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fulmen.checkpoint import files
from fulmen.checkpoint.writer import Save, snapshot

torch.set_num_threads(1)
kills, beside = int(sys.argv[1]), sys.argv[2] == "beside"
draw = random.Random(sys.argv[2])
folder = Path("c")

def step_of(path):
    return int(path.stem)

def save_for_ever(told):
    step = max(map(step_of, folder.glob("*.ckpt")), default=0)
    weights = torch.zeros(draw.choice([10, 10_000, 500_000]))
    while True:
        step += 1
        state = {"global_step": step, "state_dict": {"w": weights.fill_(step)}, "fulmen": {"version": 1}}
        path = folder / f"{step}.ckpt"
        if beside:
            save = Save(lambda copy=snapshot(state): files.write(copy, path))
            weights.fill_(-1)
            save.finish()
        else:
            files.write(state, path)
        os.write(told, step.to_bytes(4, "big"))
        for old in folder.glob("*.ckpt"):
            if step_of(old) < step - 1:
                old.unlink()

whole, left = 0, 0
for kill in range(kills):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        draw.seed(kill)
        save_for_ever(theirs)
    os.close(theirs)
    first = os.read(ours, 4)  # it is at work
    time.sleep(draw.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = first
    while more := os.read(ours, 4096):
        told += more
    os.close(ours)
    last = int.from_bytes(told[-4:], "big")
    for path in folder.glob("*.ckpt"):
        checkpoint = files.read(path)
        step = step_of(path)
        assert checkpoint["global_step"] == step and (checkpoint["state_dict"]["w"] == step).all(), path
        whole += 1
    assert step_of(Path(files.newest_good(folder))) >= last, (kill, last)
    partial = [name for name in os.listdir(folder) if name.endswith(".partial")]
    assert len(partial) <= 1, partial  # the next save has removed what the former kill left
    left += len(partial)
files.remove_leftovers(folder)
assert all(name.endswith(".ckpt") for name in os.listdir(folder))
print(kills, "kills,", whole, "files whole,", left, "saves cut off")
assert left > kills / 20, left  # else the kills came at the wrong time
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("how", ["in line", "beside"])
def test_500_kills_while_a_file_is_written(how):
    Path("program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "program.py", "500", how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
