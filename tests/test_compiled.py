from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small import Net, make_trainer, numbers
from torch import nn
from torch.utils.data import DataLoader

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


class Backend:
    """A compiler that keeps what it was given, and runs it as it is."""

    def __init__(self, error: Exception | None = None) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.error = error

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.graphs.append(graph)
        return graph.forward


class Layers(Net):
    """Its steps call layers, not the module."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])

    def training_step(self, batch, batch_idx):
        for block in self.blocks:
            batch = block(batch)
        return self.layer(batch).mean()


def fitted(module: Net, loader: Any = None, **options: Any) -> Net:
    torch.manual_seed(3)
    make_trainer(max_epochs=2, **options).fit(module, numbers(8) if loader is None else loader)
    return module


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()


def test_the_forward_of_a_module_is_compiled_once_as_a_whole():
    backend = Backend()
    module = fitted(Net(lr=0.1), compile={"backend": backend})
    assert len(backend.graphs) == 1
    assert torch.equal(module.layer.weight, fitted(Net(lr=0.1)).layer.weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own
def test_layers_are_compiled_where_the_steps_call_those():
    backend = Backend()
    torch.manual_seed(1)
    module = Layers()
    plain = copy.deepcopy(module)
    fitted(module, compile={"backend": backend})
    assert len(backend.graphs) == 2
    assert torch.equal(module.layer.weight, fitted(plain).layer.weight)


class Copied(Net):
    def on_train_end(self) -> None:
        self.twin = [copy.deepcopy(self)]


def test_the_module_its_copies_and_its_weights_are_as_without():
    module = fitted(Copied(lr=0.1), compile={"backend": "eager"})
    assert module._compiled_call_impl is None
    assert list(module.state_dict()) == ["layer.weight", "layer.bias"]
    module.twin[0].layer.weight.data.zero_()
    module.twin[0].layer.bias.data.zero_()
    assert module.twin[0](torch.ones(2)).item() == 0


def test_what_cannot_be_compiled_runs_as_written_and_the_reason_is_told():
    backend = Backend(RuntimeError("no compiler on this machine"))
    with pytest.warns(UserWarning, match="Net runs uncompiled: .*no compiler on this machine"):
        module = fitted(Net(lr=0.1), compile={"backend": backend})
    assert torch.equal(module.layer.weight, fitted(Net(lr=0.1)).layer.weight)


def test_a_mistake_in_the_module_is_told_as_it_is():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        fitted(Net(), DataLoader(torch.ones(4, 3)), compile={"backend": "eager"})


def test_a_module_that_is_compiled_already_stays_so():
    module = Net()
    module.compile(backend="eager")
    kept = module._compiled_call_impl
    fitted(module, compile={"backend": "eager"})
    assert module._compiled_call_impl is kept


@pytest.mark.parametrize("given", [None, False])
def test_nothing_is_compiled_unasked(given):
    class Asked(Net):
        def training_step(self, batch, batch_idx):
            assert self._compiled_call_impl is None
            return super().training_step(batch, batch_idx)

    fitted(Asked(), compile=given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_inductor_comes_near():
    module = fitted(Net(lr=0.1), compile=True)
    torch.testing.assert_close(module.layer.weight, fitted(Net(lr=0.1)).layer.weight)
