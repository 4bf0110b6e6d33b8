"""What DDPStrategy makes of its arguments; tests/dist runs it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from torch import nn

from fulmen import device, precision
from fulmen.errors import MisconfigurationException
from fulmen.strategy import DDPStrategy, choose
from fulmen.warn import rank_zero_only


def test_arguments_of_ddp_are_checked_at_once():
    with pytest.raises(TypeError, match=r"no argument 'find_unused_params'\. Did you mean 'find_unused_parameters'"):
        DDPStrategy(find_unused_params=True)
    with pytest.raises(ValueError, match=r"start_method='frok'.*Did you mean 'fork'"):
        DDPStrategy(start_method="frok")


def test_model_averaging_needs_its_state():
    strategy = DDPStrategy(model_averaging_period=4)
    with pytest.raises(MisconfigurationException, match="PostLocalSGDState"):
        strategy.setup_optimizers([torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)])


def test_a_started_rank_is_quiet_before_it_has_joined(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    strategy = choose("ddp", *device.choose("cpu", 2))

    assert (strategy.global_rank, strategy.is_global_zero) == (1, False)
    assert rank_zero_only.rank == 1


def test_more_ranks_than_devices_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"number 2 of its machine.*devices=2"):
        choose("ddp", *device.choose("cpu", 2))


def test_what_cannot_be_pickled_cannot_be_spawned():
    strategy = choose("ddp_spawn", *device.choose("cpu", 2))
    with pytest.raises(MisconfigurationException, match=r"cannot be pickled: .*lambda"):
        strategy.launch(lambda: 1)


def test_a_notebook_cannot_run_its_program_again(monkeypatch):
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    with pytest.raises(MisconfigurationException, match="ddp_notebook"):
        choose("ddp", *device.choose("cpu", 2)).launch(lambda: 1)


@pytest.mark.gpu
def test_one_gpu_with_nccl():
    strategy = choose(DDPStrategy(timeout=timedelta(seconds=60)), *device.choose("cuda", 1))

    def work():
        module = nn.Linear(2, 1)
        module.training_step = lambda batch: module(batch).sum()
        strategy.setup(module, precision.choose("16-mixed", "cuda"))
        strategy.backward(strategy.wrap_step("training_step")(torch.ones(1, 2, device="cuda")))
        strategy.barrier()
        return module.weight.grad.tolist(), strategy.broadcast("x")

    assert strategy.launch(work) == ([[1.0, 1.0]], "x")
