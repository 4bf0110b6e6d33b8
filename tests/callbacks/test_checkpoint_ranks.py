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
