"""Ranks whose metrics differ decide alike, and each goes on with its own statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dist.start import finish, start


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("deciding")
    code, output = finish(start("deciding.py", folder=folder))
    assert code == 0, output
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_schedulers_files_and_the_end_follow_rank_zero(ranks):
    for rank in ranks:
        assert {name: rank["first"][name] for name in ("epochs", "lr", "best")} == {
            "epochs": 2, "lr": 0.5, "best": "epoch=0.ckpt",
        }  # fmt: skip
        assert {name: rank["again"][name] for name in ("epochs", "lr", "best")} == {
            "epochs": 3, "lr": 0.25, "best": "epoch=0.ckpt",
        }  # fmt: skip


def test_a_resumed_rank_has_the_batch_norm_statistics_that_it_had(ranks):
    assert ranks[0]["first"]["saved"] != ranks[1]["first"]["saved"]
    for rank in ranks:
        assert rank["again"]["before"] == rank["first"]["saved"]


def test_a_validation_is_of_rank_zeros_statistics_which_are_saved(ranks):
    for rank in ranks:
        assert rank["first"]["validated"] == ranks[0]["first"]["saved"]
