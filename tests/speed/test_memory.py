"""Memory: next to nothing above a hand-written loop's, however long the run is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

HEAD = """
import json, resource, sys, warnings
import torch
from torch import nn
warnings.simplefilter("ignore")
torch.set_num_threads(1)
STEPS = int(sys.argv[1])

def peak():
    with open("/proc/self/status") as file:  # getrusage would count what this process was before it became this program
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

class Data:
    batches = [(torch.randn(8, 32), torch.randint(0, 2, (8,))) for _ in range(64)]

    def __len__(self):
        return STEPS

    def __iter__(self):
        return (self.batches[i % 64] for i in range(STEPS))

def net():
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
"""

RAW = """
model = net()
optimizer = torch.optim.Adam(model.parameters())
for x, y in Data():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(json.dumps({"peak": peak()}))
"""

FULMEN = """
import fulmen as L
from fulmen.callbacks import LambdaCallback
from fulmen.loggers import CSVLogger

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        if LOGS:
            self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        return torch.ones(64 * 1024)  # a quarter of a MiB

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

seen = {}

def note(trainer, *rest):
    if trainer.global_step % 5000 == 0:
        seen[trainer.global_step] = resident()

def trainer(**options):
    return L.Trainer(**{"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
                        "enable_checkpointing": False, "enable_model_summary": False, **options})
"""


def measured(program: str, steps: int, cwd: Any) -> Any:
    command = [sys.executable, "-c", HEAD + program, str(steps)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_peak_is_at_most_10_mib_above_the_hand_written_loops(tmp_path):
    raw = min(measured(RAW, 500, tmp_path)["peak"] for _ in range(2))
    fit = "LOGS = False\n" + FULMEN + "trainer().fit(Module(), Data())\nprint(json.dumps({'peak': peak()}))"
    assert min(measured(fit, 500, tmp_path)["peak"] for _ in range(2)) - raw < 10


def test_nothing_grows_over_50_000_steps(tmp_path):
    """With a value logged in each step, a validation every 5,000, and everything on but the bar."""
    fit = """
trainer(logger=CSVLogger("."), callbacks=[LambdaCallback(on_train_batch_end=note)], val_check_interval=5000,
        limit_val_batches=5, enable_checkpointing=True).fit(Module(), Data(), Data())
print(json.dumps(seen))
"""
    seen = measured("LOGS = True\n" + FULMEN + fit, 50_000, tmp_path)
    assert len(seen) == 10
    assert max(seen.values()) - seen["10000"] < 2


def test_predictions_are_kept_only_where_they_are_asked_for(tmp_path):
    """200 of a quarter of a MiB."""
    run = """
before = resident()
kept = trainer().predict(Module(), Data(), return_predictions={asked})
print(json.dumps([resident() - before, peak() - before, kept is not None and len(kept)]))
"""
    program = "LOGS = False\n" + FULMEN
    grown, _, count = measured(program + run.format(asked=True), 200, tmp_path)
    assert count == 200
    assert 50 <= grown < 65
    _, most, _ = measured(program + run.format(asked=False), 200, tmp_path)
    assert most < 20
