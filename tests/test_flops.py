from __future__ import annotations

import torch
from torch import nn

from fulmen.flops import get_available_flops, measure_flops


def test_flops_of_forward_and_backward_without_computing_anything():
    with torch.device("meta"):
        model, batch = nn.Linear(4, 8, bias=False), torch.randn(2, 4)
    forward = measure_flops(model, lambda: model(batch))

    assert forward == 2 * 2 * 4 * 8
    assert (
        measure_flops(model, lambda: model(batch), lambda output: output.sum()) == 2 * forward
    )  # no gradient of the batch


def test_the_peak_of_a_cpu_is_not_known():
    assert get_available_flops(torch.device("cpu"), torch.float32) is None


def test_the_peak_depends_on_the_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = torch.device("cuda", 0)

    assert get_available_flops(gpu, torch.bfloat16) == 2 * get_available_flops(gpu, "float32")
