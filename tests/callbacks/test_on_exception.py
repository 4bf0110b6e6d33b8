"""OnExceptionCheckpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from callbacks.small import QUIET, Scored

import fulmen as L
from fulmen.callbacks import Callback, OnExceptionCheckpoint
from fulmen.checkpoint import files


class Break(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 6:
            raise RuntimeError("broken")


def trainer(*callbacks: Callback) -> L.Trainer:
    return L.Trainer(callbacks=[OnExceptionCheckpoint("c"), *callbacks], **{**QUIET, "enable_checkpointing": True})


def test_a_run_that_breaks_off_can_be_gone_on_with_and_the_file_goes_when_it_ends_well():
    with pytest.raises(RuntimeError, match="broken"):
        trainer(Break()).fit(Scored([1.0] * 9))
    assert files.read("c/on_exception.ckpt")["global_step"] == 6
    resumed = trainer()
    resumed.fit(Scored([1.0] * 9), ckpt_path="c/on_exception.ckpt")
    assert resumed.global_step == 20
    assert not Path("c/on_exception.ckpt").exists()


def test_the_name_can_be_chosen_and_must_be_one():
    assert OnExceptionCheckpoint("c", "x").ckpt_path == str(Path("c", "x.ckpt"))
    with pytest.raises(ValueError, match="filename='' must be"):
        OnExceptionCheckpoint("c", "")
