"""What two ranks predict, put together as one process would have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dist.start import finish, start

SEVEN = [[[0.0, 1.0], 1.0], [[2.0, 3.0], 3.0], [[4.0, 5.0], 5.0], [[6.0], 6.0]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("predicting")
    code, output = finish(start("predicting.py", folder=folder))
    assert "needs DataLoaders over datasets with __getitem__" in output
    assert code == 1, output
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_each_rank_returns_its_own_share(ranks):
    assert [rank["own"] for rank in ranks] == [
        [[[0.0, 2.0], 2.0], [[4.0, 6.0], 6.0]],
        [[[1.0, 3.0], 3.0], [[5.0], 5.0]],
    ]
    assert [rank["none"] for rank in ranks] == [None, None]
    assert [rank["loader"] for rank in ranks] == [[0, 2, 4], [1, 2, 4]]  # the trainer's has this rank's samples only


def test_all_is_what_one_process_returns(ranks):
    for rank in ranks:
        assert rank["all"] == SEVEN
        assert rank["two"] == [SEVEN, [[[0.0, 1.0], 1.0]]]
