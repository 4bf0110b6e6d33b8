from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fulmen.collection import apply_to_collection, convert_tensors_to_scalars, convert_to_tensors, recursive_detach

Point = namedtuple("Point", "x y")


@dataclass
class Row:
    value: int
    name: str


def test_a_function_is_applied_to_what_is_of_the_type():
    data = {"a": 1, "b": [2, "c", (3.0, Point(4, 5))], "row": Row(6, "n")}

    changed = apply_to_collection(data, int, lambda number, factor: number * factor, 10)

    assert changed == {"a": 10, "b": [20, "c", (3.0, Point(40, 50))], "row": Row(60, "n")}
    assert data["a"] == 1


def test_what_is_of_the_wrong_type_is_left_and_none_can_go():
    assert apply_to_collection([1, True], int, str, wrong_dtype=bool) == ["1", True]
    assert apply_to_collection({"a": 1, "b": 2}, int, lambda n: None if n == 1 else n, include_none=False) == {"b": 2}


def test_numbers_and_arrays_become_tensors():
    changed = convert_to_tensors({"a": 1, "b": [True, 2.0], "c": np.ones(2)}, "cpu")

    assert (changed["a"].dtype, changed["b"][0].dtype, changed["b"][1].dtype) == (torch.int, torch.uint8, torch.float)
    assert torch.equal(changed["c"], torch.ones(2, dtype=torch.float64))


def test_tensors_of_one_element_become_numbers():
    assert convert_tensors_to_scalars({"a": torch.tensor(1.5), "b": [torch.tensor([2])]}) == {"a": 1.5, "b": [2]}
    with pytest.raises(ValueError, match="has 2 elements"):
        convert_tensors_to_scalars(torch.ones(2))


def test_detach_reaches_every_tensor():
    loss = torch.ones(1, requires_grad=True) * 2

    assert not recursive_detach({"a": [loss]}, to_cpu=True)["a"][0].requires_grad
