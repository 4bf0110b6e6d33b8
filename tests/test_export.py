"""Modules written for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from small import Net, make_trainer, numbers
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Nested(Net):
    """A module with another one inside."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.inner, self.act = Net(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.inner(x))


@pytest.mark.parametrize("fitted", [False, True], ids=["alone", "after fit"])
@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript_computes_what_the_module_does(method, fitted, tmp_path):
    module, x = Nested(), torch.rand(3, 2)
    if fitted:
        trainer = make_trainer()
        trainer.fit(module, numbers(1))
    compiled = module.to_torchscript(tmp_path / "m.pt", method=method, example_inputs=x)
    assert torch.equal(compiled(x), module(x))
    assert torch.equal(torch.jit.load(tmp_path / "m.pt")(x), module(x))
    assert module.training
    if fitted:
        assert module.trainer is trainer
    else:
        with pytest.raises(RuntimeError, match="not attached"):
            _ = module.inner.trainer


def test_the_example_of_the_module_is_taken():
    module = Net()
    with pytest.raises(ValueError, match=r"example_inputs=..., or set self.example_input_array"):
        module.to_torchscript(method="trace")
    module.example_input_array = torch.ones(1, 2)
    assert module.to_torchscript(method="trace")(torch.ones(4, 2)).tolist() == [[2.0]] * 4


def test_a_wrong_method_is_told():
    with pytest.raises(ValueError, match=r"method='compile'.* must be 'script' or 'trace'"):
        Net().to_torchscript(method="compile")


def test_onnx_needs_an_example(tmp_path: Path):
    with pytest.raises(ValueError, match=r"input_sample=..., or set self.example_input_array"):
        Net().to_onnx(tmp_path / "m.onnx")


def test_onnx_says_which_package_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"to_onnx needs onnxscript.*: pip install onnx onnxscript"):
        Net().to_onnx(tmp_path / "m.onnx", torch.ones(1, 2))
