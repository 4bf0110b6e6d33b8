from __future__ import annotations

import pytest
import torch
from torch import nn

from fulmen.compiled import from_compiled, to_uncompiled
from fulmen.demos import BoringModel


def test_there_and_back():
    module = BoringModel()
    compiled = torch.compile(module, backend="eager")

    assert from_compiled(compiled) is module
    assert "forward" in module.__dict__
    assert torch.equal(module(torch.ones(1, 32)), module.layer(torch.ones(1, 32)))
    assert to_uncompiled(compiled) is to_uncompiled(module) is module
    assert "forward" not in module.__dict__


def test_other_modules_are_an_error():
    with pytest.raises(TypeError, match="model is a Linear"):
        to_uncompiled(nn.Linear(1, 1))
