from __future__ import annotations

import typing

import torch
from torch import nn

from fulmen.types import STEP_OUTPUT, GradClipAlgorithmType, OptimizerLRScheduler, OptimizerLRSchedulerConfig


def test_aliases_can_be_used_in_annotations_at_run_time():
    assert torch.Tensor in typing.get_args(STEP_OUTPUT)
    assert torch.optim.Optimizer in typing.get_args(OptimizerLRScheduler)
    assert typing.Optional[STEP_OUTPUT] is not None  # noqa: UP045


def test_the_config_is_a_plain_dict():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    config = OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler={"scheduler": scheduler, "interval": "step"})

    assert config["lr_scheduler"]["interval"] == "step"


def test_clip_algorithms_equal_their_words():
    assert GradClipAlgorithmType.from_str("Norm") == "norm"
