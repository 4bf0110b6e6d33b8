"""ModelCheckpoint(async_save=True): files are written while training goes on, and are the same as otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from callbacks.small import QUIET, Scored

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files, writer
from fulmen.strategy.checkpoint_io import TorchCheckpointIO

SCORES = [5.0, 3.0, 4.0, 1.0, 2.0, 6.0]


def fit(callback: ModelCheckpoint, *more: L.Callback, **options) -> L.Trainer:
    torch.manual_seed(0)
    options = {**QUIET, "enable_checkpointing": True, "max_epochs": 3, "callbacks": [callback, *more], **options}
    trainer = L.Trainer(**options)
    trainer.fit(Scored(SCORES))
    return trainer


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one if key != "run")
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


class Slow(TorchCheckpointIO):
    """A checkpoint IO whose disk takes its time; notes what it writes, and what training did meanwhile."""

    def __init__(self, fails_at: int = -1, patience: float = 0.1) -> None:
        self.events: list[str] = []
        self.fails_at, self.patience = fails_at, patience
        self.may_write = threading.Semaphore(0)

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        name = Path(path).stem
        self.may_write.acquire(timeout=self.patience)
        self.events.append(f"{name} by {threading.current_thread().name}")
        if checkpoint["global_step"] == self.fails_at:
            raise OSError(28, "No space left on device", str(path))
        files.write(checkpoint, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return files.read(path, map_location, weights_only)


class Noted(L.Callback):
    def __init__(self, io: Slow) -> None:
        self.io = io

    def on_train_batch_start(self, trainer, *_):
        self.io.events.append(f"step {trainer.global_step}")


@pytest.mark.parametrize("by", ["the callback", "the trainer"])
def test_files_are_those_of_a_synchronous_run(by):
    options = {"filename": "{step}", "monitor": "score", "save_top_k": 2, "save_last": True}
    fit(ModelCheckpoint("sync", **options))
    if by == "the callback":
        fit(ModelCheckpoint("async", async_save=True, **options))
    else:
        fit(ModelCheckpoint("async", **options), async_save=True)
    assert sorted(os.listdir("async")) == sorted(os.listdir("sync"))
    for name in os.listdir("sync"):
        ours, theirs = (files.read(f"{folder}/{name}") for folder in ("async", "sync"))
        for checkpoint in (ours, theirs):
            checkpoint.pop("callbacks")  # holds the paths
        assert same(ours, theirs)


def test_training_goes_on_while_a_file_is_written_and_later_changes_do_not_reach_it():
    io = Slow(patience=30)

    class Frees(Noted):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            if trainer.global_step == 6:
                io.may_write.release()

    noted = Frees(io)
    fit(ModelCheckpoint("c", filename="{step}", every_n_train_steps=4, async_save=True), noted, plugins=[io],
        max_steps=7)  # fmt: skip
    assert io.events.index("step=4 by fulmen-save") > io.events.index("step 5")
    assert same(dict(files.read("c/step=4.ckpt")["state_dict"]), noted.weights)


def test_later_saves_wait_for_earlier_ones_those_of_the_program_too():
    io = Slow()

    class Asks(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint("c/own.ckpt")
                io.events.append("own")

    fit(ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, save_top_k=-1, async_save=True), Asks(),
        plugins=[io], max_epochs=1)  # fmt: skip
    names = [event.split(" by ")[0] for event in io.events if event.startswith("step=") or event == "own"]
    assert names == ["step=2", "own", "step=4"]


def test_older_files_go_only_when_the_newer_one_is_whole():
    seen = []

    class Watching(Slow):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            seen.append(sorted(os.listdir("c")))
            super().save_checkpoint(checkpoint, path)

    fit(ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, async_save=True), plugins=[Watching()])
    assert seen == [[], *([f"step={step}.ckpt"] for step in (2, 4, 6, 8, 10))]
    assert os.listdir("c") == ["step=12.ckpt"]


def test_a_failed_write_ends_the_run_at_the_next_step():
    io = Slow(fails_at=2)
    callback = ModelCheckpoint("c", filename="{step}", every_n_train_steps=1, save_last=True, async_save=True)
    with pytest.raises(OSError, match="No space left"):
        fit(callback, Noted(io), plugins=[io])
    assert io.events[-1].startswith(("step 2", "step=2"))
    assert sorted(os.listdir("c")) == ["last.ckpt", "step=1.ckpt"]
    assert os.path.basename(callback.best_model_path) == "step=1.ckpt"


@pytest.mark.parametrize("is_async", [True, False])
def test_a_failed_write_may_be_told_only(is_async):
    callback = ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, async_save=is_async, unwritable="warn")
    with pytest.warns(UserWarning, match=r"No space left on device.*Training goes on \(unwritable='warn'\)"):
        fit(callback, plugins=[Slow(fails_at=6)])
    assert os.listdir("c") == ["step=12.ckpt"]


def test_an_exception_waits_for_the_last_save_and_is_the_one_to_be_raised():
    class Breaks(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                raise RuntimeError("mine")

    io = Slow(fails_at=4)
    callback = ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, async_save=True)
    with pytest.warns(UserWarning, match="No space left"), pytest.raises(RuntimeError, match="mine"):
        fit(callback, Breaks(), plugins=[io])
    assert os.listdir("c") == ["step=2.ckpt"]


PROGRAM = """
import sys, time, fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files
from fulmen.demos import BoringModel
from fulmen.strategy.checkpoint_io import TorchCheckpointIO

class Slow(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        time.sleep(1)
        files.write(checkpoint, path)

    load_checkpoint = files.read

class Ends(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            END

callback = ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, async_save=True)
trainer = L.Trainer(accelerator="cpu", max_steps=4, logger=False, callbacks=[callback, Ends()], plugins=[Slow()],
                    enable_progress_bar=False, enable_model_summary=False)
trainer.fit(BoringModel())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(3)", 3),
        ("raise KeyError('x')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2),
    ],
    ids=["exit", "exception", "SIGTERM", "Ctrl-C"],
)
def test_however_the_program_ends_its_last_save_is_complete(end, status):
    Path("program.py").write_text(PROGRAM.replace("END", end))
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode in (status, 128 - status), done.stderr
    assert files.read("c/step=2.ckpt")["global_step"] == 2
    assert not [name for name in os.listdir("c") if name.endswith(".partial")]


def test_a_snapshot_shares_memory_where_the_original_does_and_none_with_it():
    base = torch.arange(12.0)
    state = {"a": base[2:6].view(2, 2), "b": [base[4:], base.t()], "c": torch.eye(3).to_sparse(), "d": base[:0]}
    copy = writer.snapshot(state)
    assert torch.equal(copy["c"].to_dense(), torch.eye(3))
    assert copy["a"].untyped_storage().data_ptr() == copy["b"][0].untyped_storage().data_ptr()
    base.zero_()
    assert copy["a"].tolist() == [[2, 3], [4, 5]]
    assert copy["b"][0].tolist() == list(range(4, 12))
