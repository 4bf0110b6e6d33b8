"""Small tensors are stepped by foreach operations, and end up at the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, make_trainer, numbers
from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RMSprop, Rprop

CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.05}),
    (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "maximize": True}),
    (Adam, {"lr": 0.01}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (AdamW, {"lr": 0.01, "maximize": True}),
    (RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    (Adagrad, {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.1}),
    (Adadelta, {"weight_decay": 0.1}),
    (Adamax, {"weight_decay": 0.1}),
    (Rprop, {}),
]


class Deep(Net):
    """Ten tensors, of which two get no gradient."""

    def __init__(self, kind: Any, width: int = 5, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.options = kind, options
        self.layer = nn.Sequential(*(part for _ in range(4) for part in (nn.LazyLinear(width), nn.Tanh())))
        self.layer(torch.ones(1, 2))
        self.idle = nn.Linear(2, 2)
        self.to(dtype)

    def training_step(self, batch, batch_idx):
        return self(batch.to(self.idle.weight.dtype)).square().mean()

    def configure_optimizers(self):
        self.optimizer = self.kind(self.parameters(), **self.options)
        return [self.optimizer], [torch.optim.lr_scheduler.StepLR(self.optimizer, 2)]


def fitted(kind: Any, **options: Any) -> Deep:
    module = Deep(kind, **options)
    make_trainer(max_epochs=3).fit(module, numbers(6))
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_weights_are_those_of_steps_tensor_by_tensor(kind, options, dtype):
    faster, plain = fitted(kind, dtype=dtype, **options), fitted(kind, dtype=dtype, foreach=False, **options)
    assert [group["foreach"] for group in faster.optimizer.param_groups] == [True]
    assert not torch.equal(faster.layer[0].weight, Deep(kind, dtype=dtype).layer[0].weight)
    for name, value in faster.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


class Own(Adam):
    pass


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Adam, {"foreach": False, "lr": 0.1}),
        (Adam, {"fused": True, "lr": 0.1}),
        (Adam, {"lr": torch.tensor(0.1)}),
        (Adam, {"lr": 0.1, "width": 300}),
        (NAdam, {"lr": 0.1}),
        (Own, {"lr": 0.1}),
    ],
)
def test_other_optimizers_and_choices_are_left_alone(kind, options):
    module = fitted(kind, **options)
    assert module.optimizer.param_groups[0].get("foreach") in (None, False)


def test_few_tensors_are_left_alone_and_many_are_told_of(caplog):
    module = Net(lr=0.1)
    with caplog.at_level("INFO", "fulmen"):
        make_trainer().fit(module, numbers(2))
        assert "foreach" not in caplog.text
        fitted(AdamW)
    assert caplog.text.count("Faster, with the same results: AdamW by foreach operations.") == 1
