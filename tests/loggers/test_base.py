"""What loggers share: ranks, versions, prefixes, plain hyperparameters."""

from __future__ import annotations

import copy
import enum
import pickle
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import Net, make_trainer, numbers

from fulmen.errors import MisconfigurationException
from fulmen.loggers import CSVLogger, DummyLogger, Logger, TensorBoardLogger
from fulmen.loggers.base import merge_dicts
from fulmen.warn import rank_zero_only

KINDS = [CSVLogger, TensorBoardLogger]


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Size:
    width: int = 3


def test_a_logger_of_your_own_needs_four_members():
    class Rows(Logger):
        name, version = "rows", 0

        def log_metrics(self, metrics, step=None):
            self.last = (metrics, step)

        def log_hyperparams(self, params):
            self.params = params

    logger = Rows()
    logger.log_metrics({"loss": 1.0}, 3)
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.after_save_checkpoint(None)
    logger.finalize("success")

    assert logger.last == ({"loss": 1.0}, 3)
    assert (logger.log_dir, logger.save_dir, logger.root_dir, logger.group_separator) == (None, None, None, "/")
    with pytest.raises(TypeError, match="abstract"):
        Logger()


def test_the_dummy_logger_takes_everything():
    logger = DummyLogger()
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_image("key", [1])
    logger.experiment.add_image("key", 1)
    logger.experiment[0].watch(None)
    logger.experiment["key"] = 1

    assert (logger.name, logger.version, list(logger)) == ("", "", [logger])
    assert isinstance(copy.deepcopy(pickle.loads(pickle.dumps(logger))), DummyLogger)


@pytest.mark.parametrize("kind", KINDS)
def test_the_version_is_the_next_free_number(kind):
    for folder in ("version_0", "version_11", "version_x", "best"):
        Path("logs/digits", folder).mkdir(parents=True)

    logger = kind("logs", name="digits")

    assert logger.version == 12
    assert logger.log_dir == "logs/digits/version_12"
    assert (logger.save_dir, logger.root_dir, logger.name) == ("logs", "logs/digits", "digits")
    assert kind("logs", name=None).log_dir == "logs/version_0"
    assert kind("logs", version=3).log_dir == "logs/lightning_logs/version_3"
    assert kind("logs", version="mine").log_dir == "logs/lightning_logs/mine"
    assert not Path("logs/digits/version_12").exists(), "nothing is made before something is logged"


@pytest.mark.parametrize("kind", KINDS)
def test_other_ranks_write_nothing(kind):
    rank_zero_only.rank = 1
    logger = kind("logs")
    logger.experiment.add_scalar("loss", 1.0, 0)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    logger.finalize("success")

    assert logger.state_dict() == {}
    assert not Path("logs").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_hyperparameters_are_written_as_plain_yaml(kind):
    logger = kind("logs")
    logger.log_hyperparams(
        {
            "lr": np.float64(0.5), "seed": torch.tensor(3), "betas": (0.9, 0.99), "mode": Mode.FAST, "size": Size(),
            "nested": Namespace(path=Path("a/b"), none=None), "act": torch.nn.ReLU(), "kind": torch.nn.ReLU,
        }
    )  # fmt: skip
    logger.log_hyperparams(Namespace(more=True))
    logger.save()

    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {
        "lr": 0.5, "seed": 3, "betas": [0.9, 0.99], "mode": "fast", "size": {"width": 3},
        "nested": {"path": "a/b", "none": None}, "act": "ReLU()", "kind": "ReLU", "more": True,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_one_is_named_at_once(kind):
    Path("logs").write_text("")
    with pytest.raises(MisconfigurationException, match=r"'logs.lightning_logs.version_0' cannot hold logs.*is a file"):
        _ = kind("logs").experiment


@pytest.mark.parametrize("kind", KINDS)
def test_a_used_logger_goes_through_pickle_to_another_process(kind):
    logger = kind("logs")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()

    assert pickle.loads(pickle.dumps(logger)).log_dir == logger.log_dir


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_another_run_is_left_alone(kind):
    first = kind("logs")
    first.log_metrics({"loss": 1.0}, 0)
    state = first.state_dict()
    first.finalize("success")
    before = sorted(Path("logs").rglob("*"))

    for other in (kind("logs", name="other"), kind("logs", version=1), kind("elsewhere")):
        other.load_state_dict(state)
        assert other.state_dict() == {}
    assert sorted(Path("logs").rglob("*")) == before


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CSVLogger("~/logs").save_dir == str(tmp_path / "logs")


def test_merged_dicts_hold_one_value_for_each_key():
    merged = merge_dicts([{"a": 1, "b": {"x": 1}}, {"a": 3, "c": 4, "b": {"x": 5}}], agg_key_funcs={"b": {"x": max}})
    assert merged == {"a": 2, "b": {"x": 5}, "c": 4}


@pytest.mark.slow
def test_naming_the_loggers_imports_neither_tensorboard_nor_wandb():
    code = (
        "import sys, fulmen; from fulmen.loggers import CSVLogger, TensorBoardLogger, WandbLogger;"
        "TensorBoardLogger('.');"
        "assert not {'tensorboard', 'wandb', 'yaml', 'fsspec'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")})


def test_save_follows_each_row_of_a_logger_of_ones_own():
    calls = []

    class Own(DummyLogger):
        paces_itself = False

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            calls.append(step)

        def save(self) -> None:
            calls.append("save")

    class Logging(Net):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.log("x", 1.0)
            return super().training_step(batch, batch_idx)

    make_trainer(logger=Own(), log_every_n_steps=1).fit(Logging(), numbers(2))
    assert calls[1:5] == [0, "save", 1, "save"]
