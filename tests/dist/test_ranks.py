"""Two processes with gloo on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dist.programs.ranks import BATCHES, Net, weights
from dist.start import TORCHRUN, ranks

WORKS = (
    "place", "train", "start_different", "accumulate", "skip", "buffers", "frozen", "unwrapped", "collectives",
    "uneven", "save",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict]:
    """What each work gave on each rank, in one run of the program."""
    return ranks("ddp", *WORKS, folder=folder)


def alone(steps: list[list[list[float]]]) -> list[float]:
    """The weights after training on all samples of each step in one process."""
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in steps:
        module.training_step(torch.tensor(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(module)


def test_each_rank_knows_its_place(both):
    for rank in range(2):
        place = both[rank]["place"]
        assert place["ranks"] == [rank, rank, 0, 2]
        assert place["zero"] == (rank == 0)
        assert place["sampler"] == {"num_replicas": 2, "rank": rank}
        assert place["quiet"] == rank


def test_two_ranks_learn_what_one_learns_from_all_the_data(both):
    assert both[0]["train"] == both[1]["train"] == pytest.approx(alone(BATCHES), rel=1e-5)


def test_training_starts_from_the_weights_of_rank_zero(both):
    assert both[0]["start_different"] == both[1]["start_different"] == [0.0, 0.0]


def test_gradients_stay_apart_within_no_sync_and_are_summed_after_it(both):
    module = Net()
    for step in range(2):
        for sample in BATCHES[step]:
            (module.training_step(torch.tensor([sample])) / 2).backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()

    assert both[0]["accumulate"][0] != both[1]["accumulate"][0]
    assert both[0]["accumulate"][1:] == both[1]["accumulate"][1:] == pytest.approx(weights(module), rel=1e-5)


def test_a_rank_without_a_loss_counts_as_one_with_a_gradient_of_zero(both):
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step, samples in enumerate([BATCHES[0], BATCHES[1][:1], BATCHES[2]]):
        loss = module.training_step(torch.tensor(samples)) / (2 if step == 1 else 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert both[0]["skip"] == both[1]["skip"] == pytest.approx(weights(module), rel=1e-5)


def test_buffers_are_those_of_rank_zero_at_the_start_of_a_step(both):
    assert both[0]["buffers"][:2] == both[1]["buffers"][:2]
    assert both[0]["buffers"][2:] != both[1]["buffers"][2:]


def test_a_module_with_nothing_to_train_is_not_wrapped(both):
    assert both[0]["frozen"] == [False, True]


def test_the_module_itself_stays_as_it_is(both):
    keys = ["first.bias", "first.weight", "second.bias", "second.weight"]
    assert both[0]["unwrapped"] == {"wraps": True, "keys": keys, "validation": True, "after": True}


def test_collectives(both):
    for rank in range(2):
        found = both[rank]["collectives"]
        assert found["reduce"] == {"mean": 1.5, "sum": 3.0, "min": 1.0, "max": 2.0}
        assert found["reduce_op"] == 2.0
        assert found["whole"] == 0.5
        assert found["untouched"] == rank + 1.0
        assert found["gather"] == [[[0, 7], [1, 7]], [[0.0], [1.0]], "text"]
        assert found["number"] == [0, 1]
        assert found["grad"] == [[2.0], [20.0]][rank]
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["broadcast"] == [{"rank": 0}, "of one"]
        assert (found["all"], found["any"]) == (False, True)


def test_gathering_different_shapes_is_an_error_on_each_rank(both):
    for rank in range(2):
        assert "rank 0 has (2, 3) torch.float32 and rank 1 has (3, 3) torch.float32" in both[rank]["uneven"]


def test_rank_zero_saves_and_all_raise_if_it_cannot(both):
    assert [both[rank]["save"][0] for rank in range(2)] == [0, 0]
    assert "/dev/null/a.ckpt" in both[0]["save"][1]
    assert both[1]["save"][1].startswith("rank 0 could not save '/dev/null/a.ckpt': ")


def test_a_second_launch_uses_the_same_processes(both, folder):
    again = json.loads((folder / "again.json").read_text())
    assert again["pid"] == both[0]["place"]["pid"]


@pytest.mark.slow
def test_manual_optimization_may_go_backward_several_times(tmp_path):
    rank0, rank1 = ranks("ddp_find_unused_parameters_true", "manual", "unused", "train", "skip", folder=tmp_path)

    assert rank0 == rank1
    assert rank0["train"] == pytest.approx(alone(BATCHES), rel=1e-5)


@pytest.mark.slow
def test_gradients_may_travel_through_a_hook(tmp_path):
    rank0, rank1 = ranks("comm_hook", "train", folder=tmp_path)

    assert rank0["train"] == rank1["train"]
    assert rank0["train"] == pytest.approx(alone(BATCHES), rel=0.05, abs=0.01)
    assert rank0["train"] != pytest.approx(alone(BATCHES), rel=1e-6)


@pytest.mark.slow
def test_under_torchrun_nothing_is_started(tmp_path):
    rank0, rank1 = ranks("ddp", "place", "train", folder=tmp_path, launcher=TORCHRUN)

    assert (rank0["place"]["ranks"], rank1["place"]["ranks"]) == ([0, 0, 0, 2], [1, 1, 0, 2])
    assert rank0["train"] == rank1["train"] == pytest.approx(alone(BATCHES), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_for_one_call_give_back_the_result_of_rank_zero(tmp_path, method):
    rank0, rank1 = ranks(f"ddp_{method}", "place", "train", folder=tmp_path)

    assert json.loads((tmp_path / "result.json").read_text()) == rank0
    assert rank0["place"]["variables"] == ["2", "0", "0"]
    assert rank1["place"]["ranks"] == [1, 1, 0, 2]
    assert rank0["train"] == rank1["train"] == pytest.approx(alone(BATCHES), rel=1e-5)
