"""What objects keep as they go; that another process goes on with it is in exact/."""

from __future__ import annotations

import pytest
import torch

from fulmen import kept


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
