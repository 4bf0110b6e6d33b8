from __future__ import annotations

import os

import pytest
import torch
from torch.utils.data import DataLoader

from fulmen.demos import RandomDataset, RandomIterableDataset, RandomIterableDatasetWithLen
from fulmen.loaders import (
    extract_batch_size,
    has_iterable_dataset,
    has_len,
    has_len_all_ranks,
    sized_len,
    suggested_max_num_workers,
)
from fulmen.strategy.base import SingleDeviceStrategy

WITH, WITHOUT = DataLoader(RandomDataset(1, 4)), DataLoader(RandomIterableDataset(1, 4))


def test_lengths():
    assert (sized_len(WITH), sized_len(WITHOUT)) == (4, None)
    assert (has_len(WITH), has_len(WITHOUT), has_len(DataLoader(RandomIterableDatasetWithLen(1, 2)))) == (
        True,
        False,
        True,
    )
    assert (has_iterable_dataset(WITH), has_iterable_dataset(WITHOUT)) == (False, True)


def test_an_empty_loader_is_worth_a_warning():
    with pytest.warns(UserWarning, match="has no batches"):
        assert has_len(DataLoader(RandomDataset(1, 0)))


def test_length_on_all_ranks():
    strategy = SingleDeviceStrategy(torch.device("cpu"))

    assert has_len_all_ranks(WITH, strategy)
    assert not has_len_all_ranks(WITHOUT, strategy)


def test_batch_size():
    assert extract_batch_size({"x": torch.ones(5, 2)}) == 5


def test_workers_leave_a_core_to_each_rank(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    assert [suggested_max_num_workers(ranks) for ranks in (1, 2, 8, 16)] == [7, 3, 1, 1]
    with pytest.raises(ValueError, match="local_world_size=0"):
        suggested_max_num_workers(0)
