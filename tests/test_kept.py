"""What objects keep as they go; that another process goes on with it is in exact/."""

from __future__ import annotations

import gc
import random

import pytest
import torch
from small import Net, make_trainer, numbers

from fulmen import kept

DRAWING = random.Random(1)
"""Among the globals of this file, so it is looked after for what is made here."""


class Growing:
    """Small at first; data that are large from the start."""

    def __init__(self) -> None:
        self.seen, self.paths, self.held = [], [(str(number), number) for number in range(5_000)], torch.zeros(3)


def test_large_attributes_are_left_out_and_tensors_are_known_by_their_version():
    part = Growing()
    kept.watch(part)
    assert kept.changes(part)["counters"] == {}
    part.held += 1
    part.seen.append((1, "a"))
    part.paths.append(("new", 1))
    assert {name: str(value) for name, value in kept.changes(part)["counters"].items()} == {
        "seen": "[(1, 'a')]", "held": "tensor([1., 1., 1.])",
    }  # fmt: skip
    part.seen = [(number, "a") for number in range(70_000)]
    with pytest.warns(UserWarning, match=r"Checkpoints leave out Growing\.seen: it is too large"):
        assert list(kept.changes(part)["counters"]) == ["held"]


def test_nothing_of_the_users_own_is_asked_for_its_length():
    class Stream:
        """Counts what it gives, without an end."""

        def __len__(self) -> int:
            raise AssertionError("its length was asked for")

    class Holder:
        def __init__(self) -> None:
            self.stream, self.several, self.count = Stream(), [Stream()], 0

    part = Holder()
    kept.watch(part)
    part.count = 1
    assert kept.changes(part)["counters"] == {"count": 1}


class Slotted:
    """Nothing can refer to it weakly."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.slotted = Slotted()

    def training_step(self, batch, batch_idx):
        self.slotted.count += DRAWING.randint(0, 9)
        return super().training_step(batch, batch_idx)


def test_nothing_of_runs_that_are_over_is_held():
    counts = []
    for _ in range(3):
        make_trainer().fit(Counting(), numbers())
        gc.collect()
        counts.append((sum(type(thing) is Slotted for thing in gc.get_objects()), len(kept._first)))
    assert counts[2][0] <= 1
    assert counts[2][1] <= counts[0][1]
