"""Hyperparameters in files of their own."""

from __future__ import annotations

import enum
from pathlib import Path

import pytest
import torch
from torch import nn

import fulmen as L
from fulmen.checkpoint import files, hparams, sidefiles


class Mode(enum.Enum):
    FAST = "fast"


class Net(L.LightningModule):
    def __init__(self, width, depth=2, act="relu", **rest):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, depth)


def saved(module: L.LightningModule, path: str = "a.ckpt") -> str:
    checkpoint = {"state_dict": module.state_dict(), "fulmen": {"version": 1}}
    hparams.store(checkpoint, module)
    files.write(checkpoint, path)
    return path


def test_hyperparameters_of_a_side_file_stand_in():
    path = saved(Net(4))
    Path("h.yaml").write_text("width: 4\nact: [1, 2]\npair: !!python/tuple [1, 2]\n")
    assert Net.load_from_checkpoint(path, hparams_file="h.yaml").hparams["act"] == [1, 2]
    assert Net.load_from_checkpoint(path, hparams_file="h.yaml").hparams["pair"] == (1, 2)
    Path("h.csv").write_text("key,value\nwidth,4\nact,gelu\n")
    assert Net.load_from_checkpoint(path, hparams_file="h.csv").hparams == {"width": 4, "depth": 2, "act": "gelu"}
    with pytest.raises(ValueError, match=r"hparams_file='h.json' must end in"):
        Net.load_from_checkpoint(path, hparams_file="h.json")


def test_yaml_that_would_make_objects_is_refused():
    Path("h.yaml").write_text("x: !!python/object/apply:builtins.open [touched, w]\n")
    with pytest.raises(ValueError, match=r"'h.yaml' is not plain YAML"):
        sidefiles.load_hparams_from_yaml("h.yaml")
    assert not Path("touched").exists()


def test_yaml_is_written_plain_and_read_back():
    values = {"lr": 0.1, "sizes": (1, 2), "dtype": torch.float16, "table": torch.ones(2), "mode": Mode.FAST}
    sidefiles.save_hparams_to_yaml("h.yaml", values)
    read = sidefiles.load_hparams_from_yaml("h.yaml")
    assert read == {"lr": 0.1, "sizes": [1, 2], "dtype": "torch.float16", "table": [1.0, 1.0], "mode": "fast"}
