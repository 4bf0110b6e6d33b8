"""Passes over loaders; that another process goes on in their midst is in exact/."""

from __future__ import annotations

from multiprocessing import active_children

import pytest
import torch
from small import Net, Numbers, make_trainer
from torch.utils.data import DataLoader

from fulmen import position


def test_persistent_workers_end_with_the_run():
    def data() -> DataLoader:
        return DataLoader(Numbers(), batch_size=2, num_workers=1, persistent_workers=True)

    class Fails(Net):
        def on_train_epoch_end(self) -> None:
            raise InterruptedError

    make_trainer().fit(Net(), data())
    assert not active_children()
    with pytest.raises(InterruptedError):
        make_trainer().fit(Fails(), data())
    assert not active_children()


class Growing:
    """Small at first; data that are large from the start."""

    def __init__(self) -> None:
        self.seen, self.paths, self.held = [], [(str(number), number) for number in range(5_000)], torch.zeros(3)


def test_large_attributes_are_left_out_and_tensors_are_known_by_their_version():
    part = Growing()
    position.watch(part)
    assert position.changes(part)["counters"] == {}
    part.held += 1
    part.seen.append((1, "a"))
    part.paths.append(("new", 1))
    assert {name: str(value) for name, value in position.changes(part)["counters"].items()} == {
        "seen": "[(1, 'a')]", "held": "tensor([1., 1., 1.])",
    }  # fmt: skip
    part.seen = [(number, "a") for number in range(70_000)]
    with pytest.warns(UserWarning, match=r"Checkpoints leave out Growing\.seen: it is too large"):
        assert list(position.changes(part)["counters"]) == ["held"]
