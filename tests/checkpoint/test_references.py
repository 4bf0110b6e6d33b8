"""Modules, classes and functions of torch among the hyperparameters come back by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchmetrics
from callbacks.small import QUIET
from torch import nn

import fulmen as L
from fulmen.checkpoint import files, references
from fulmen.demos import BoringModel


class Net(BoringModel):
    def __init__(self, body, loss=None, act=torch.relu, optimizer=torch.optim.SGD, head=None):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.body, self.criterion, self.act, self.optimizer, self.head = body, loss, act, optimizer, head

    def forward(self, x):
        return self.layer(self.act(self.body(x)))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.1)


def body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 4, bias=False), nn.Dropout(0.5), nn.LayerNorm(4), nn.Linear(4, 32))


def trained(module: L.LightningModule) -> L.LightningModule:
    trainer = L.Trainer(max_steps=2, **{**QUIET, "max_epochs": None})
    trainer.fit(module)
    trainer.save_checkpoint("a.ckpt")
    return module


def test_they_come_back_with_their_settings_and_weights():
    loss, act = nn.CrossEntropyLoss(weight=torch.rand(2), label_smoothing=0.1), nn.functional.gelu
    module = trained(Net(body(), loss, act, torch.optim.Adam, head=nn.Linear))
    torch.load("a.ckpt", weights_only=True)
    again = Net.load_from_checkpoint("a.ckpt")
    assert repr(again) == repr(module)
    assert again.criterion.label_smoothing == 0.1
    assert (again.act, again.optimizer, again.head) == (nn.functional.gelu, torch.optim.Adam, nn.Linear)
    ours, theirs = module.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "metric",
    [
        torchmetrics.MeanAbsoluteError(), torchmetrics.Accuracy("multiclass", num_classes=4, top_k=2),
        torchmetrics.FBetaScore("binary", beta=0.5, threshold=0.3), torchmetrics.MeanMetric(), torchmetrics.AUROC,
    ],
    ids=["error", "accuracy", "score", "mean", "class"],
)  # fmt: skip
def test_metrics_come_back_too(metric):
    trained(Net(body(), metric))
    again = Net.load_from_checkpoint("a.ckpt").criterion
    if metric is torchmetrics.AUROC:
        assert again is metric
        return
    assert type(again) is type(metric)
    assert [getattr(again, name, None) for name in ("num_classes", "top_k", "beta", "threshold")] == [
        getattr(metric, name, None) for name in ("num_classes", "top_k", "beta", "threshold")
    ]


def test_metrics_of_metrics_are_left_out():
    assert references.describe(torchmetrics.MinMaxMetric(torchmetrics.MeanMetric())) is None
    assert references.describe(torchmetrics.MetricCollection([torchmetrics.MeanMetric()])) is None


def test_an_argument_that_is_given_counts():
    trained(Net(body()))
    again = Net.load_from_checkpoint("a.ckpt", act=torch.tanh)
    assert again.act is torch.tanh


def test_the_weights_take_no_more_room_in_the_file():
    module = trained(Net(nn.Sequential(nn.Linear(32, 2000), nn.Linear(2000, 32))))
    assert Path("a.ckpt").stat().st_size < 1.2 * 4 * sum(parameter.numel() for parameter in module.parameters())


class Own(nn.Module):
    pass


@pytest.mark.parametrize(
    "value",
    [nn.LSTM(2, 2), nn.Sequential(Own()), nn.Linear(2, 2).double(), torch.load, eval, Own, lambda x: x],
    ids=["LSTM", "own within", "double", "load", "eval", "own class", "lambda"],
)
def test_what_is_not_sure_is_not_described(value):
    assert references.describe(value) is None


def test_what_was_changed_since_it_was_made_is_not_described():
    module = nn.Linear(2, 2)
    module.register_forward_hook(print)
    assert references.describe(module) is None
    module = nn.Dropout(0.5)
    module.note = "mine"
    assert references.describe(module) is None


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch.nn.functional.importlib", "torch.nn.os", "x",
     "torchmetrics.regression.torch", "torchmetrics.utilities.data.torch"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["name", "make"])
def test_a_file_gets_no_function_that_it_names_but_those_of_torch_that_compute(name, form):
    trained(Net(body()))
    checkpoint = files.read("a.ckpt")
    description = {"name": name, "training": True, "arguments": {"command": "touch touched"}}
    checkpoint["fulmen"]["references"]["hyper_parameters"]["body"] = (
        description if form == "name" else {"make": description, "weights": {}}
    )
    files.write(checkpoint, "evil.ckpt")
    with (
        pytest.warns(UserWarning, match="'body' in a form that this torch does not know"),
        pytest.raises(TypeError, match="Net needs body"),
    ):
        Net.load_from_checkpoint("evil.ckpt")
