"""Today's arguments with values of other days, from the environment, and on a machine that has less; the notices."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.errors import MisconfigurationException
from fulmen.strategy import DDPStrategy

QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}


def made(**arguments: Any) -> tuple[L.Trainer, list[str]]:
    """A trainer, and the notices that came with it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = L.Trainer(**QUIET | arguments)
    assert {one.filename for one in said} <= {__file__}
    return trainer, [str(one.message) for one in said]


# ---- values


@pytest.mark.parametrize("name", ["accelerator", "devices", "strategy", "max_steps"])
def test_none_was_the_default(name):
    trainer, _ = made(**{name: None})

    assert (trainer.num_devices, trainer.strategy.name, trainer.max_steps) == (1, "single_device", -1)
    assert trainer.strategy.root_device == torch.device("cpu")


def test_no_accelerator_was_the_cpu_unless_gpus_were_asked_for(monkeypatch):
    assert made(accelerator=None)[1] == ["Trainer(accelerator=None) is spelled accelerator='cpu' today."]
    assert made(accelerator=None, devices=2, strategy="ddp_spawn")[0].num_devices == 2

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trainer, _ = made(accelerator=None, gpus=2, strategy="ddp", precision=32)
    assert trainer.strategy.parallel_devices == [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("given", "strategy"),
    [({"strategy": "ddp_sharded"}, "ddp"), ({"strategy": "ddp_sharded_spawn"}, "ddp_spawn"),
     ({"strategy": "ddp_cpu", "devices": 2}, "ddp_spawn"), ({"strategy": "dp"}, "single_device"),
     ({"accelerator": "ddp2"}, "single_device"), ({"accelerator": "ddp_spawn"}, "ddp_spawn"),
     ({"plugins": "ddp_sharded"}, "ddp"), ({"plugins": ["ddp_find_unused_parameters_true"]}, "ddp")],
)  # fmt: skip
def test_old_words_for_the_strategy(given, strategy):
    trainer, notices = made(accelerator=given.pop("accelerator", "cpu"), **given)

    assert trainer.strategy.name.startswith(strategy)
    assert len(notices) == 1
    assert notices[0].endswith("today.")


def test_a_strategy_among_the_plugins_is_the_strategy():
    strategy = DDPStrategy(find_unused_parameters=True)

    trainer, notices = made(accelerator="cpu", plugins=[strategy])

    assert trainer.strategy is strategy
    assert "is spelled strategy=" in notices[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"strategy": "horovod"}, "strategy='horovod' left Lightning in 2.0"),
     ({"strategy": "dp", "devices": 2, "accelerator": "cpu"}, "strategy='dp' over 2 devices"),
     ({"accelerator": "dp", "devices": 3}, "accelerator='dp' over 3 devices"),
     ({"strategy": "dpp"}, "strategy='dpp'"), ({"accelerator": "cpuu"}, "accelerator='cpuu'")],
)  # fmt: skip
def test_words_that_lead_nowhere_are_named_as_they_were_given(given, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        made(**given)

    assert words in str(error.value)


# ---- the environment


def test_arguments_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "3")
    monkeypatch.setenv("PL_TRAINER_CHECKPOINT_CALLBACK", "False")
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "7")
    monkeypatch.setenv("PL_TRAINER_GPUS", "0")
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", "runs")

    trainer, _ = made(max_epochs=None, limit_train_batches=2)

    assert (trainer.max_epochs, trainer.limit_train_batches) == (3, 2)  # what the program says goes first
    assert trainer.default_root_dir == "runs"
    assert not any(isinstance(callback, ModelCheckpoint) for callback in trainer.callbacks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with GPUs")
@pytest.mark.parametrize(
    "given",
    [{"accelerator": "gpu", "devices": 8, "strategy": "ddp"}, {"accelerator": "cuda", "devices": [0, 3]},
     {"accelerator": "gpu"}, {"accelerator": "tpu", "devices": 8}, {"gpus": 4, "accelerator": "ddp"}],
)  # fmt: skip
def test_on_request_a_program_runs_on_what_there_is(given, monkeypatch):
    with pytest.raises(MisconfigurationException):
        made(**given)

    monkeypatch.setenv("FULMEN_DEVICES", "available")
    trainer, notices = made(**given)

    assert (trainer.num_devices, trainer.strategy.root_device.type) == (1, "cpu")
    assert sum("FULMEN_DEVICES=available runs this on the CPU" in one for one in notices) == 1


def test_on_request_fewer_gpus_do(monkeypatch):
    monkeypatch.setenv("FULMEN_DEVICES", "available")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    trainer, notices = made(accelerator="gpu", devices=8)

    assert trainer.num_devices == 2
    assert "devices=8 asks for more; FULMEN_DEVICES=available runs this on 2 GPUs." in notices[0]
    assert made(accelerator="gpu", devices=2)[1] == []


# ---- notices


def test_each_notice_comes_once_and_names_the_line_of_the_program():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            line = sys._getframe().f_lineno + 1
            L.Trainer(max_epochs=1, logger=False, gpus=0, progress_bar_refresh_rate=0)

    assert [(one.filename, one.lineno) for one in said] == [(__file__, line)] * 2
    assert [str(one.message) for one in said] == [
        "Trainer(gpus=0) is spelled accelerator='cpu' today.",
        "Trainer(progress_bar_refresh_rate=0) is spelled enable_progress_bar=False today.",
    ]
