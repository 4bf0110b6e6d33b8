"""Each old argument that chooses devices does what it did, or says what is not here."""

from __future__ import annotations

import pytest
import torch
from compat.trainers import QUIET, SMALL, quiet, then

import fulmen as L
from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::fulmen.warn.PossibleUserWarning")


@pytest.mark.parametrize("value", [0, None, [], "0,0"[:0]])
def test_gpus_nothing_is_the_cpu(value):
    arguments = {**QUIET, **SMALL, "gpus": value, "accelerator": "auto"}

    assert then("accelerator='cpu'", **arguments).strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "words"),
    [(8, "gpus=8 asks for 8 GPUs"), ("0", "the GPUs [0]"), ("0,1", "the GPUs [0, 1]"), ([1], "the GPUs [1]"),
     (-1, "all GPUs"), ("3", "3 GPUs")],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with GPUs")
def test_gpus_that_are_not_here_are_an_error_that_says_what_was_asked_and_found(value, words):
    with pytest.raises(MisconfigurationException) as error:
        L.Trainer(gpus=value)

    assert words in str(error.value)
    assert "no GPU" in str(error.value)
    assert "FULMEN_DEVICES=available" in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with GPUs")
@pytest.mark.parametrize("arguments", [{"gpus": 8}, {"tpu_cores": 8}, {"gpus": 2, "distributed_backend": "ddp"}])
def test_on_request_it_runs_on_what_there_is(monkeypatch, arguments):
    monkeypatch.setenv("FULMEN_DEVICES", "available")

    trainer = then(
        "FULMEN_DEVICES=available runs this on the CPU", **{**QUIET, **SMALL, "accelerator": "auto"}, **arguments
    )

    assert trainer.strategy.root_device == torch.device("cpu")
    assert trainer.num_devices == 1


def test_gpus_auto_takes_what_there_is():
    trainer = then("accelerator='auto', devices='auto'", **{**QUIET, **SMALL, "accelerator": "auto", "gpus": "auto"})

    assert trainer.num_devices >= 1


def test_gpus_in_words_that_are_no_number_are_an_error():
    with pytest.raises(MisconfigurationException, match="gpus='two' must be a number"):
        L.Trainer(gpus="two")


@pytest.mark.parametrize("name", ["tpu_cores", "num_tpu_cores", "ipus"])
def test_other_hardware_is_an_error(name):
    with pytest.raises(MisconfigurationException, match=f"{name}=8 asks for"):
        L.Trainer(**{name: 8})


@pytest.mark.parametrize("name", ["accelerator", "distributed_backend"])
def test_ddp_cpu_is_processes_on_the_cpu(name):
    arguments = {**QUIET, **SMALL, "accelerator": "auto", "num_processes": 2, name: "ddp_cpu"}

    trainer = then("strategy='ddp_spawn'", **arguments)

    assert trainer.strategy.name == "ddp_spawn"
    assert (trainer.num_devices, trainer.strategy.root_device.type) == (2, "cpu")


def test_num_processes_alone_is_processes_on_the_cpu():
    trainer = then("devices=2", **{**QUIET, **SMALL, "accelerator": "auto"}, num_processes=2)

    assert trainer.num_devices == 2


@pytest.mark.parametrize(
    "arguments", [{"accelerator": "ddp"}, {"distributed_backend": "ddp"}, {"distributed_backend": "ddp_sharded"}]
)
def test_ddp_without_gpus_was_one_process_on_the_cpu(arguments):
    trainer = then("strategy='ddp'", **{**QUIET, **SMALL, "accelerator": "auto", **arguments})

    assert (trainer.strategy.name, trainer.num_devices, trainer.strategy.root_device.type) == ("ddp", 1, "cpu")


def test_dp_on_one_device_is_that_device():
    trainer = quiet("strategy='auto'", distributed_backend="dp", gpus=0)

    assert trainer.strategy.name == "single_device"


def test_dp_on_several_devices_names_the_way_out():
    with pytest.raises(MisconfigurationException, match="strategy='ddp' with the batch size divided"):
        L.Trainer(distributed_backend="dp", devices=2)


@pytest.mark.parametrize("word", ["horovod", "bagua"])
def test_backends_that_are_gone_say_so(word):
    with pytest.raises(MisconfigurationException, match=r"left Lightning in 2\.0"):
        L.Trainer(distributed_backend=word)
