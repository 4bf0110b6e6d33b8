from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from fulmen.errors import MisconfigurationException
from fulmen.tree import batch_size, detach, map_tensors, move, rebuild

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Sample:
    image: Any
    label: Any = None
    size: int = field(init=False, default=2)


@dataclass(frozen=True)
class Frozen:
    image: Any


class Graph:
    """A batch with a method `to` of its own."""

    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return Graph(device)


class InPlace(Graph):
    def to(self, device):
        self.device = device


class Tagged(dict):
    """A dict that carries something beside its items."""

    tag = ""


def double(tensor):
    return tensor * 2


def nested(one):
    """One tensor in every kind of container."""
    return {
        "dict": {"a": one},
        "list": [one, "text", 3],
        "tuple": (one, None),
        "point": Point(one, 1),
        "ordered": OrderedDict(a=one),
        "default": defaultdict(list, a=one),
        "user": UserDict(a=one),
        "proxy": MappingProxyType({"a": one}),
        "deque": deque([one]),
        "sample": Sample(one, "cat"),
        "frozen": Frozen([one]),
    }


def test_every_tensor_in_a_nesting_is_mapped_and_the_kinds_of_containers_stay():
    old = nested(torch.tensor(1))
    new = map_tensors(double, old)
    assert new == nested(torch.tensor(2))
    assert [type(value) for value in new.values()] == [type(value) for value in old.values()]
    assert old == nested(torch.tensor(1))


def test_what_does_not_change_is_the_same_object():
    batch = nested(torch.tensor(1))
    assert map_tensors(lambda tensor: tensor, batch) is batch
    batch = {"a": [torch.ones(1)], "b": [torch.tensor(1)]}
    new = map_tensors(lambda tensor: double(tensor) if tensor.ndim else tensor, batch)
    assert new["a"] is not batch["a"]
    assert new["b"] is batch["b"]


def test_what_subclasses_carry_beside_their_items_is_kept():
    batch = Tagged(a=torch.tensor(1))
    batch.tag = "train"
    new = map_tensors(double, batch)
    assert (type(new), new.tag, new["a"].item()) == (Tagged, "train", 2)


def test_a_rebuilt_container_has_the_new_values():
    assert rebuild({"a": 1, "b": 2}, [3, 4]) == {"a": 3, "b": 4}
    assert rebuild(Point(1, 2), [3, 4]) == Point(3, 4)
    assert rebuild(deque([1], maxlen=5), [3, 4]).maxlen == 5


def test_moving_reaches_every_tensor():
    moved = move(nested(torch.ones(2)), "meta")
    seen = []
    map_tensors(lambda tensor: seen.append(tensor.device.type), moved)
    assert seen == ["meta"] * len(nested(0))


@pytest.mark.parametrize("kind", [tuple, list])
def test_moving_a_row_of_tensors_keeps_its_kind(kind):
    moved = move(kind([torch.ones(2), [torch.ones(1)], "text"]), torch.device("meta"))
    assert type(moved) is kind
    assert (moved[0].device.type, moved[1][0].device.type, moved[2]) == ("meta", "meta", "text")


@pytest.mark.parametrize("batch", [torch.ones(2), (torch.ones(2), torch.ones(1)), [torch.ones(1), ["a"]], {"a": 1}, 3])
def test_a_batch_that_is_already_there_is_not_copied(batch):
    assert move(batch, torch.device("cpu")) is batch


def test_moving_to_the_host_waits_for_the_values_and_moving_to_a_device_does_not():
    asked = {}

    class Spy(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if kwargs and "non_blocking" in kwargs:
                asked[args[1].type] = kwargs["non_blocking"]
            return super().__torch_function__(function, types, args, kwargs or {})

    for device in ("cpu", "meta"):
        move([torch.ones(1).as_subclass(Spy)], device)
    assert asked == {"cpu": False, "meta": True}


def test_objects_with_a_method_to_move_themselves():
    moved = move({"graph": Graph(), "in_place": InPlace(), "class": Graph}, "meta")
    assert moved["graph"].device == torch.device("meta")
    assert moved["in_place"].device == torch.device("meta")
    assert moved["class"] is Graph


def test_packed_sequences_move_and_detach():
    packed = pack_sequence([torch.ones(3, requires_grad=True), torch.ones(2)])
    assert move(packed, "meta").data.device.type == "meta"
    assert not detach(packed).data.requires_grad


def test_detached_values_have_no_graph():
    loss = torch.ones(1, requires_grad=True) * 2
    detached = detach({"loss": loss, "parts": [loss], "name": "x"})
    assert not detached["loss"].requires_grad
    assert not detached["parts"][0].requires_grad
    assert loss.requires_grad


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        (torch.tensor(1.0), 1),
        ((torch.zeros(4), torch.zeros(5)), 4),
        ([torch.zeros(4)], 4),
        ({"text": ["a", "b"], "image": torch.zeros(5, 1)}, 5),
        ({"a": {"b": [torch.zeros(6)]}, "c": torch.zeros(7)}, 6),
        ([["a", "b", "c"], 3], 3),
        (Sample(None, torch.zeros(8)), 8),
        (Point(torch.zeros(2), 1), 2),
        ((Point(1, torch.zeros(2)), torch.zeros(3)), 2),
    ],
)
def test_the_batch_size_is_the_first_dimension_of_the_first_tensor(batch, size):
    assert batch_size(batch) == size


@pytest.mark.parametrize("batch", [{}, [], (), 3, None, "text", [1, 2], {"a": object()}, Sample])
def test_a_batch_without_a_size_is_an_error_that_says_what_to_do(batch):
    with pytest.raises(MisconfigurationException, match=r"self\.log\(\.\.\., batch_size=\.\.\.\)"):
        batch_size(batch)


@pytest.mark.gpu
def test_a_batch_goes_to_the_gpu_and_back():
    batch = nested(torch.arange(1000.0).pin_memory())
    there = move(batch, "cuda")
    assert there["list"][0].is_cuda
    assert move(there, torch.device("cuda", 0)) is there
    assert torch.equal(move(there, "cpu")["dict"]["a"], torch.arange(1000.0))
