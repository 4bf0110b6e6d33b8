"""A step that failed is kept, and runs alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import make_trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.tools.command import main


class Rows(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index


class Net(L.LightningModule):
    def __init__(self, bad: int | None = 33) -> None:
        super().__init__()
        self.layer, self.bad = nn.Linear(2, 1), bad

    def training_step(self, batch, batch_idx):
        if self.bad in batch[1]:
            raise ValueError("a bad row")
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(bad: int = 33, seed: int = 2, **options) -> str:
    """The notes of the error."""
    torch.manual_seed(seed)
    loader = DataLoader(Rows(), batch_size=4, shuffle=True, num_workers=options.pop("num_workers", 0))
    options = {"callbacks": [ModelCheckpoint(dirpath="ckpt")], "enable_checkpointing": True, **options}
    with pytest.raises(ValueError, match="a bad row") as error:
        make_trainer(**options).fit(Net(bad), loader)
    return " ".join(getattr(error.value, "__notes__", ()))


needs_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")


@needs_notes
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_names_the_hook_the_samples_and_what_to_do_next(num_workers):
    note = fit(num_workers=num_workers)
    held = torch.load("ckpt/failed_step.replay")
    listed = ", ".join(str(int(index)) for index in held["batch"][1])

    assert f"Trainer.fit was at epoch 0, batch {held['batch_idx']}, global step {held['batch_idx']} (train)" in note
    assert f", in training_step. Batch {held['batch_idx']} is made of the samples {listed}." in note
    assert 33 in held["batch"][1]
    assert f"`fulmen replay {os.getcwd()}/ckpt/failed_step.replay` runs this step alone" in note


@needs_notes
@pytest.mark.parametrize("num_workers", [0, 1])
def test_where_the_data_raise_the_note_is_of_the_batch_that_was_asked_for(num_workers):
    class Broken(Rows):
        def __getitem__(self, index):
            if index == 33:
                raise ValueError("a bad row")
            return super().__getitem__(index)

    loader = DataLoader(Broken(), batch_size=4, shuffle=True, num_workers=num_workers)
    with pytest.raises(ValueError, match="a bad row") as error:
        make_trainer().fit(Net(33), loader)
    listed = error.value.__notes__[-1].partition("is made of the samples ")[2].split(".")[0]
    assert "33" in listed.split(", ")


def test_the_file_holds_the_step_and_no_code():
    fit()
    held = torch.load("ckpt/failed_step.replay", weights_only=True)

    assert held["error"] == "ValueError: a bad row"
    assert set(held["state_dict"]) == {"layer.weight", "layer.bias"}
    assert held["progress"]["batches"] == held["batch_idx"]


@pytest.mark.parametrize("switch", ["FULMEN_CAPTURE", "enable_checkpointing"])
def test_it_can_be_turned_off(switch, monkeypatch):
    if switch == "FULMEN_CAPTURE":
        monkeypatch.setenv("FULMEN_CAPTURE", "0")
        fit()
    else:
        fit(callbacks=[], enable_checkpointing=False)

    assert not list(Path().rglob("*.replay"))


def test_the_first_step_of_a_run_is_as_quickly_begun_anew():
    torch.manual_seed(2)
    first = int(torch.randperm(40, generator=torch.Generator().manual_seed(0))[0])
    with pytest.raises(ValueError, match="a bad row"):
        make_trainer(callbacks=[ModelCheckpoint(dirpath="ckpt")], enable_checkpointing=True).fit(
            Net(first), DataLoader(Rows(), batch_size=40)
        )

    assert not list(Path().rglob("*.replay"))


def test_a_file_cannot_name_any_command():
    fit()
    held = torch.load("ckpt/failed_step.replay")
    for command in (["-c", "print('run')"], ["-m", "http.server"], []):
        torch.save({**held, "command": command}, "other.replay")
        assert main(["replay", "other.replay"]) == 1
    assert main(["replay", "missing.replay"]) == 1


def test_another_file_is_told(capsys):
    torch.save({"state_dict": {}}, "a.ckpt")
    assert main(["replay", "a.ckpt"]) == 1
    assert "holds no captured step" in capsys.readouterr().err


@pytest.mark.slow
def test_the_program_runs_just_the_step():
    Path("train.py").write_text(PROGRAM)
    failed = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "first in the output of net.1 (Log)" in failed.stderr
    again = subprocess.run(
        [sys.executable, "-m", "fulmen", "replay", "ckpt/failed_step.replay"], capture_output=True, text=True
    )

    assert again.returncode == 1
    assert again.stdout.count("\nstep ") == 1
    assert "It failed again; the first bad output is that of net.1 (Log)." in again.stdout
    assert "returned nan values" in again.stderr

    good = subprocess.run(
        [sys.executable, "-m", "fulmen", "replay", "ckpt/failed_step.replay", "train.py", "good"],
        capture_output=True,
        text=True,
    )
    assert good.returncode == 0, good.stderr
    assert "It did not fail this time" in good.stdout


PROGRAM = """
import sys, torch, fulmen as L
from torch import nn
from fulmen.callbacks import ModelCheckpoint

class Log(nn.Module):
    def forward(self, x):
        return x.log().square() if x.min() < 0 and len(sys.argv) == 1 else x

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 1), Log())
        nn.init.constant_(self.net[0].weight, 1.0); nn.init.constant_(self.net[0].bias, 0.0)
    def training_step(self, batch, batch_idx):
        print("step", batch_idx)
        return self.net(batch).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

first = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
data = torch.utils.data.DataLoader([torch.tensor([3.0 - i]) for i in range(8)])
first.fit(Net(), data)
trainer = L.Trainer(accelerator="cpu", logger=False, max_epochs=1, callbacks=[ModelCheckpoint(dirpath="ckpt")])
trainer.fit(Net(), data)
"""
