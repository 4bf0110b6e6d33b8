"""One process, one device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fulmen import device, precision
from fulmen.errors import MisconfigurationException
from fulmen.strategy import SingleDeviceStrategy, choose


@pytest.fixture
def strategy() -> SingleDeviceStrategy:
    return choose("single_device", *device.choose("cpu", 1))


def test_it_is_the_only_rank(strategy):
    assert (strategy.world_size, strategy.global_rank, strategy.local_rank, strategy.node_rank) == (1, 0, 0, 0)
    assert strategy.is_global_zero
    assert strategy.distributed_sampler_kwargs is None
    assert (strategy.root_device, strategy.device_ids) == (torch.device("cpu"), [0])


def test_work_is_done_in_this_process(strategy):
    seen = []
    assert strategy.launch(lambda: seen.append(1) or "result") == "result"
    assert seen == [1]


def test_setup_converts_and_does_not_wrap(strategy):
    module = nn.Linear(2, 2)
    strategy.setup(module, precision.choose("64-true", "cpu"))

    assert module.weight.dtype == torch.float64
    assert strategy.model is strategy.module is module
    assert not strategy.wraps
    assert strategy.wrap_step("forward") == module.forward


def test_the_device_of_the_trainer_is_taken_unless_the_strategy_has_its_own():
    assert choose(SingleDeviceStrategy(), device.CPUAccelerator(), [torch.device("meta")]).root_device.type == "meta"
    assert (
        choose(SingleDeviceStrategy("cpu"), device.CPUAccelerator(), [torch.device("meta")]).root_device.type == "cpu"
    )
    assert SingleDeviceStrategy(1).parallel_devices == [torch.device("cuda", 1)]


def test_batches_move_to_the_device():
    strategy = choose("auto", device.CPUAccelerator(), [torch.device("meta")])
    batch = strategy.to_device({"x": torch.ones(2), "y": "text"})

    assert batch["x"].device.type == "meta"
    assert batch["y"] == "text"
    assert strategy.batch_to_device(torch.ones(1), torch.device("cpu")).device.type == "cpu"


def test_collectives_return_what_they_get(strategy):
    value = torch.ones(2)
    assert strategy.reduce(value, reduce_op="sum") is value
    assert strategy.all_gather(value) is value
    assert strategy.broadcast("x") == "x"
    assert strategy.gather_object("x") == ["x"]
    assert strategy.reduce_boolean_decision(False) is False
    strategy.barrier("anywhere")


def test_gradients_are_clipped_by_norm_or_by_value(strategy):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, -4.0])
    assert strategy.clip([weight], 2.5).item() == 5.0
    assert weight.grad.tolist() == pytest.approx([1.5, -2.0])

    strategy.clip([weight], 1.0, "value")
    assert weight.grad.tolist() == [1.0, -1.0]


def test_backward_passes_its_arguments_on(strategy):
    weight = nn.Parameter(torch.ones(1))
    loss = (weight * 2).sum()
    strategy.backward(loss, retain_graph=True)
    strategy.backward(loss)

    assert weight.grad.item() == 4.0


def test_checkpoints_are_written_and_read(strategy, tmp_path):
    strategy.save({"a": torch.ones(2)}, tmp_path / "new" / "a.ckpt")
    assert strategy.load(tmp_path / "new" / "a.ckpt")["a"].tolist() == [1.0, 1.0]


def test_a_checkpoint_io_of_the_user_writes_and_reads_instead():
    class Memory:
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            self.saved = (checkpoint, path, storage_options)

        def load_checkpoint(self, path, map_location=None, weights_only=None):
            return {"from": path}

    memory = Memory()
    strategy = choose("auto", *device.choose("cpu", 1), checkpoint_io=memory)
    strategy.save({"a": 1}, "there", storage_options={"b": 2})

    assert memory.saved == ({"a": 1}, "there", {"b": 2})
    assert strategy.load("there") == {"from": "there"}


def test_more_than_one_device_is_refused():
    with pytest.raises(MisconfigurationException, match="'single_device' is for one device, but devices=2"):
        choose("single_device", *device.choose("cpu", 2))


@pytest.mark.gpu
def test_teardown_brings_the_module_back_to_the_cpu():
    strategy = choose("auto", *device.choose("cuda", 1))
    module = nn.Linear(2, 2)
    strategy.launch(lambda: strategy.setup(module, precision.choose(None, "cuda")))
    assert module.weight.is_cuda

    strategy.teardown()
    assert not module.weight.is_cuda
