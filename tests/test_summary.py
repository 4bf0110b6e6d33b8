"""The summary of a module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fulmen as L
from fulmen.summary import LayerSummary, ModelSummary, get_human_readable_count, parse_batch_shape, summarize


class Net(L.LightningModule):
    def __init__(self, example=None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
        self.table = nn.Embedding(100, 4)
        self.table.requires_grad_(False)
        self.scale = nn.Parameter(torch.zeros(3, 3))
        self.example_input_array = example
        self.seen: list[bool] = []

    def forward(self, x):
        self.seen.append(self.training or self.body.training or torch.is_grad_enabled())
        torch.rand(1)
        return self.body(x)


def test_the_table():
    assert str(summarize(Net())) == "\n".join(
        [
            "  | Name         | Type       | Params | Mode ",
            "----------------------------------------------",
            "0 | body         | Sequential | 2.9 K  | train",
            "1 | table        | Embedding  | 400    | train",
            "  | other params | n/a        | 9      | n/a  ",
            "----------------------------------------------",
            "2.9 K     Trainable params",
            "400       Non-trainable params",
            "3.3 K     Total params",
            "0.013     Total estimated model params size (MB)",
            "6         Modules in train mode",
            "0         Modules in eval mode",
        ]
    )


def test_numbers():
    summary = ModelSummary(Net(), max_depth=-1)

    assert summary.layer_names == ["body", "body.0", "body.1", "body.2", "body.3", "table"]
    assert summary.layer_types == ["Sequential", "Linear", "BatchNorm1d", "Dropout", "Linear", "Embedding"]
    assert summary.param_nums == [2890, 2112, 128, 0, 650, 400]
    assert summary.total_parameters == 3299
    assert summary.trainable_parameters == 2899
    assert summary.total_layer_params == 3290
    assert summary.model_size == pytest.approx(3299 * 4e-6)
    assert summary.in_sizes == ["?"] * 6
    assert summary.total_flops == 0


@pytest.mark.parametrize(("depth", "names"), [(0, []), (1, ["body", "table"]), (2, 6), (-1, 6)])
def test_depth(depth, names):
    found = summarize(Net(), max_depth=depth).layer_names

    assert found == names or len(found) == names


@pytest.mark.parametrize("depth", [-2, "all"])
def test_wrong_depth(depth):
    with pytest.raises(ValueError, match="max_depth="):
        summarize(Net(), max_depth=depth)


@pytest.mark.parametrize("example", [torch.zeros(4, 32), (torch.zeros(4, 32),), {"x": torch.zeros(4, 32)}], ids=type)
def test_an_example_gives_sizes_and_operations(example):
    summary = summarize(Net(example), max_depth=2)

    assert summary.in_sizes == [[4, 32], [4, 32], [4, 64], [4, 64], [4, 64], "?"]
    assert summary.out_sizes == [[4, 10], [4, 64], [4, 64], [4, 64], [4, 10], "?"]
    assert summary.total_flops == 2 * 4 * (32 * 64 + 64 * 10)
    assert [sum(counts.values()) for counts in summary.flop_counts.values()] == [21504, 16384, 0, 0, 5120, 0]
    assert "21.5 K | [4, 32]  | [4, 10]" in str(summary)


def test_the_example_leaves_no_trace():
    net = Net(torch.zeros(4, 32))
    net.body[1].eval()
    statistics, state = net.body[1].running_mean.clone(), torch.get_rng_state()
    summary = summarize(net)

    assert net.seen == [False]
    assert net.training
    assert not net.body[1].training
    assert summary.total_training_modes == {"train": 5, "eval": 1}
    assert torch.equal(net.body[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    net(torch.zeros(4, 32))  # no hook is left behind: sizes stay
    assert summary.in_sizes[0] == [4, 32]


def test_modes_come_back_when_the_example_fails():
    net = Net(torch.zeros(4, 33))
    with pytest.raises(RuntimeError):
        summarize(net)

    assert net.body.training
    assert not net.body._forward_hooks


def test_shared_and_lazy_parameters_count_once_and_not_at_all():
    class Shared(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2)
            self.both = nn.Sequential(self.one, nn.Linear(2, 2))
            self.lazy = nn.LazyLinear(4)

    summary = summarize(Shared())
    assert summary.param_nums == [6, 12, 0]
    assert summary.total_parameters == summary.total_layer_params == 12


def test_size_counts_the_bytes_that_there_are():
    assert summarize(Net().half()).model_size == pytest.approx(3299 * 2e-6)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0  "), (999, "999  "), (1000, "1.0 K"), (12345, "12.3 K"), (999_999, "999 K"), (123_456_789, "123 M"),
     (10**9, "1.0 B"), (1.5e12, "1.5 T"), (10**15, "1,000 T")],
)  # fmt: skip
def test_counts_for_people(number, text):
    assert get_human_readable_count(int(number)) == text


def test_shapes_of_batches():
    assert parse_batch_shape(torch.zeros(2, 3)) == [2, 3]
    assert parse_batch_shape([torch.zeros(2), (torch.zeros(4),), 3]) == [[2], [[4]], "?"]
    assert parse_batch_shape({"a": torch.zeros(2)}) == "?"


def test_one_layer():
    layer = nn.Linear(3, 4)
    summary = LayerSummary(layer)
    assert (summary.in_size, summary.num_parameters, summary.layer_type) == ("?", 16, "Linear")

    layer(torch.zeros(2, 3))
    assert (summary.in_size, summary.out_size) == ([2, 3], [2, 4])
