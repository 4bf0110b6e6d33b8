"""ModelCheckpoint: the newest files for a restart, and those that stay."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from callbacks.small import QUIET, Scored

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files
from fulmen.errors import MisconfigurationException


def run(*more: L.Callback, ckpt_path=None, max_epochs: int = 3, **options) -> ModelCheckpoint:
    callback = ModelCheckpoint("c", filename="{step}", **options)
    trainer = L.Trainer(callbacks=[callback, *more],
                        **{**QUIET, "enable_checkpointing": True, "max_epochs": max_epochs})  # fmt: skip
    trainer.fit(Scored([1.0] * 9), ckpt_path=ckpt_path)
    return callback


def steps(folder: str = "c") -> list[int]:
    return sorted(int(path.stem.partition("=")[2]) for path in Path(folder).glob("*.ckpt"))


@pytest.mark.parametrize("is_async", [False, True])
def test_the_newest_files_stay_and_the_permanent_ones_too(is_async):
    run(every_n_train_steps=1, keep_newest=2, keep_every_n_train_steps=5, async_save=is_async)
    assert steps() == [5, 10, 11, 12]


def test_permanent_files_come_at_their_steps_whatever_the_others_wait_for():
    run(train_time_interval=timedelta(days=1), keep_every_n_train_steps=5)
    assert steps() == [5, 10]
    shutil.rmtree("c")
    run(every_n_epochs=1, keep_every_n_train_steps=5)
    assert steps() == [5, 10, 12]


def test_a_resumed_run_knows_which_files_are_to_go():
    run(every_n_train_steps=2, keep_newest=2, max_epochs=2)
    assert steps() == [6, 8]
    run(every_n_train_steps=2, keep_newest=2, ckpt_path="c/step=8.ckpt")
    assert steps() == [10, 12]
    run(every_n_train_steps=2, ckpt_path="c/step=12.ckpt", max_epochs=4)
    assert steps() == [16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_newest": 0}, "keep_newest=0 must be >= 1"),
        ({"keep_newest": 2, "monitor": "score"}, "goes with neither monitor nor save_top_k"),
        ({"keep_every_n_train_steps": 5, "save_top_k": -1}, "goes with neither monitor nor save_top_k"),
        ({"unwritable": "wran"}, r"unwritable='wran' must be 'stop' or 'warn'. Did you mean 'warn'\?"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(MisconfigurationException, match=message):
        ModelCheckpoint(**options)


class At(L.Callback):
    """Does something to the folder before step 5."""

    def __init__(self, action) -> None:
        self.action = action

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4:
            self.action()


def test_a_folder_that_vanishes_is_told_and_made_anew():
    with pytest.warns(UserWarning, match=r"The folder '.*c' has vanished, with the checkpoints in it"):
        run(At(lambda: shutil.rmtree("c")), every_n_train_steps=3)
    assert steps() == [12]


def block() -> None:
    """What stands where the folder was: nothing can be saved there, not even by root."""
    os.rename("c", "moved")
    Path("c").write_text("")


def unblock() -> None:
    os.unlink("c")
    os.rename("moved", "c")


def test_a_folder_that_cannot_be_written_to_for_a_while_costs_only_those_saves():
    class Back(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 8:
                unblock()

    with pytest.warns(UserWarning, match=r"step=6.ckpt' could not be saved: .*Training goes on"):
        run(At(block), Back(), every_n_train_steps=3, unwritable="warn", keep_newest=3)
    assert steps() == [3, 9, 12]
    assert files.newest_good("c") == os.path.join("c", "step=12.ckpt")


def test_by_default_it_ends_the_run_and_older_files_stay_whole():
    with pytest.raises(OSError, match=r"step=6.ckpt' could not be saved"):
        run(At(block), every_n_train_steps=3)
    unblock()
    assert steps() == [3]
    assert files.read("c/step=3.ckpt")["global_step"] == 3
