from __future__ import annotations

import pytest
import torch
from torch import nn

from fulmen.parameters import find_shared_parameters, grad_norm, set_shared_parameters


def test_norms_of_the_gradients_by_name_and_in_all():
    layer = nn.Linear(3, 4)
    assert grad_norm(layer, 2) == {}
    layer(torch.ones(1, 3)).sum().backward()

    norms = {name: round(norm.item(), 4) for name, norm in grad_norm(layer, 2).items()}

    assert norms == {"grad_2.0_norm/weight": 3.4641, "grad_2.0_norm/bias": 2.0, "grad_2.0_norm_total": 4.0}
    assert grad_norm(layer, "inf", group_separator=".")["grad_inf_norm.bias"] == 1
    with pytest.raises(ValueError, match=r"norm_type=0\.0 must be"):
        grad_norm(layer, 0)


def test_shared_parameters_are_found_and_can_be_tied_again():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    assert find_shared_parameters(net) == []
    net["b"].weight = net["a"].weight
    assert find_shared_parameters(net) == [["a.weight", "b.weight"]]

    net["b"].weight = nn.Parameter(torch.zeros(2, 2))
    set_shared_parameters(net, [["a.weight", "b.weight"]])

    assert net["b"].weight is net["a"].weight
