"""ModelCheckpoint on two ranks that do not agree about the monitored value."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, torch, fulmen as L
from torch.utils.data import DataLoader
from fulmen.callbacks import ModelCheckpoint
from fulmen.demos import BoringModel

class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("score", float(self.global_rank == 0) * self.global_step)  # best on rank 0: the first; on rank 1: any

callback = ModelCheckpoint("c", filename="{epoch}-{score:.0f}", monitor="score", save_top_k=2, save_last=True)
trainer = L.Trainer(max_epochs=3, devices=2, strategy="ddp", accelerator="cpu", logger=False, callbacks=[callback],
                    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
trainer.fit(Model(), DataLoader(torch.randn(8, 32)), DataLoader(torch.randn(2, 32)))
open(f"rank{trainer.global_rank}", "w").write(callback.best_model_path + " " + callback.last_model_path)
"""


@pytest.mark.slow
def test_ranks_that_disagree_do_not_wait_for_each_other_for_ever():
    Path("program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir("c")) == ["epoch=0-score=4.ckpt", "epoch=1-score=8.ckpt", "last.ckpt"]
    expected = " ".join(os.path.realpath(f"c/{name}.ckpt") for name in ("epoch=0-score=4", "last"))
    assert [Path(f"rank{rank}").read_text() for rank in range(2)] == [expected, expected]


FAILING = """
import sys, warnings, torch, fulmen as L
from datetime import timedelta
from torch.utils.data import DataLoader
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files
from fulmen.demos import BoringModel
from fulmen.plugins import TorchCheckpointIO

class Failing(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 2:
            raise OSError(28, "No space left on device", str(path))
        files.write(checkpoint, path)

how = sys.argv[1]
unwritable = "stop" if how == "stop" else "warn"
callbacks = [ModelCheckpoint("c", filename="{step}", every_n_train_steps=2, async_save=how != "in line",
                             unwritable=unwritable, keep_newest=2),
             ModelCheckpoint("t", train_time_interval=timedelta(0), save_top_k=-1, filename="{step}")]
trainer = L.Trainer(max_epochs=2, devices=2, strategy="ddp", accelerator="cpu", logger=False, callbacks=callbacks,
                    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, plugins=[Failing()])
trainer.fit(BoringModel(), DataLoader(torch.randn(8, 32)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in line", "beside", "stop"])
def test_a_save_that_fails_on_rank_zero_ends_all_ranks_or_none(how):
    text = FAILING.replace('ModelCheckpoint("t"', 'ModelCheckpoint("t", unwritable="warn"')
    Path("program.py").write_text(text)
    done = subprocess.run([sys.executable, "program.py", how], capture_output=True, text=True, timeout=180)
    assert "No space left on device" in done.stderr
    if how == "stop":
        assert done.returncode != 0
        return
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir("c")) == ["step=6.ckpt", "step=8.ckpt"]
    assert sorted(os.listdir("t")) == [f"step={step}.ckpt" for step in (1, 3, 4, 5, 6, 7, 8)]
