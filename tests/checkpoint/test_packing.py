"""What a program puts into its checkpoints loads again, without code being run."""

from __future__ import annotations

import enum
import threading
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from callbacks.small import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st

import fulmen as L
from fulmen.checkpoint import files, hparams
from fulmen.checkpoint.packing import MARK
from fulmen.demos import BoringModel
from fulmen.errors import ForeignCheckpoint


class Color(enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")


@dataclass
class Config:
    width: int = 3


class Weights(torch.Tensor):
    pass


def through_a_file(value, **how):
    files.write({"callbacks": {"Mine": {"value": value, "next": 1}}}, "a.ckpt")
    torch.load("a.ckpt", weights_only=True)
    return files.read("a.ckpt", **how)["callbacks"]["Mine"]


@pytest.mark.parametrize(
    "value",
    [
        deque([1, [2]], maxlen=3),
        defaultdict(list, {"a": [1]}),
        Counter("aab"),
        OrderedDict(a=1),
        frozenset({1}),
        {(1, 2), 3},
        datetime(2026, 1, 2, 3, tzinfo=timezone.utc),
        date(2026, 1, 2),
        timedelta(days=1, microseconds=5),
        Path("a/b"),
        Namespace(a=Path("b")),
        range(3, 9, 2),
        Color.RED,
        np.float32(0.5),
        np.datetime64("2026-01-02"),
        np.bool_(True),
        {"deep": [(deque([np.int64(3)]),)]},
        {MARK: "not ours"},
    ],
    ids=repr,
)
def test_kinds_of_the_standard_library_and_numpy_come_back_as_they_were(value):
    if isinstance(value, dict) and MARK in value:
        with pytest.raises(ForeignCheckpoint, match="packed"):
            through_a_file(value)
        return
    back = through_a_file(value)["value"]
    assert back == value
    assert type(back) is type(value)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
    | st.text() | st.binary() | st.dates() | st.timedeltas() | st.sets(st.tuples(st.integers())) | st.just(Color.RED)
)  # fmt: skip


def trees(inner):
    lists = st.lists(inner)
    return lists | st.builds(deque, lists) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)


@given(st.recursive(LEAVES, trees, max_leaves=12))
@settings(max_examples=30, deadline=None)
def test_any_tree_of_them_comes_back_equal(value):
    assert through_a_file(value)["value"] == value


def test_arrays_come_back():
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    back = through_a_file(array)["value"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    back += 1  # its own memory
    assert through_a_file(np.array(["a", "bc"]))["value"].tolist() == ["a", "bc"]


def test_kinds_of_the_users_own_are_saved_as_what_they_are_based_on():
    assert through_a_file(Point(1, 2))["value"] == (1, 2)
    kept = through_a_file(torch.ones(2).as_subclass(Weights))["value"]
    assert type(kept) is torch.Tensor


def test_what_only_code_rebuilds_is_left_out_with_a_word_unless_code_is_allowed():
    with pytest.warns(UserWarning, match=r"callbacks -> Mine -> value .* is .*Config, which only code can rebuild"):
        files.write({"callbacks": {"Mine": {"value": [Config(5)], "next": 1}}}, "a.ckpt")
    torch.load("a.ckpt", weights_only=True)
    with pytest.warns(
        UserWarning, match=r"'a.ckpt': callbacks -> Mine -> value -> 0 is left out. .*weights_only=False"
    ):
        assert files.read("a.ckpt")["callbacks"]["Mine"] == {"value": [None], "next": 1}
    assert files.read("a.ckpt", weights_only=False)["callbacks"]["Mine"] == {"value": [Config(5)], "next": 1}


def test_what_cannot_be_saved_at_all_does_not_end_the_run():
    with pytest.warns(UserWarning, match=r"leaves out callbacks -> Mine -> value: a _thread.lock cannot be saved"):
        assert through_a_file(threading.Lock()) == {"next": 1}


def test_an_enum_that_the_program_does_not_know_is_left_out():
    files.write({"x": {MARK: "enum", "value": ["nowhere.to.be", "A", "B"]}}, "a.ckpt")
    with pytest.warns(UserWarning, match="A.B of the module 'nowhere.to.be', which is not there"):
        assert "x" not in files.read("a.ckpt")
    files.write({"x": {MARK: "enum", "value": ["os", "system", "B"]}}, "a.ckpt")
    with pytest.warns(UserWarning, match="left out"):
        assert "x" not in files.read("a.ckpt")


def test_the_state_of_a_users_callback_survives_a_run_and_its_resumption():
    class Mine(L.Callback):
        def state_dict(self):
            return {"recent": deque([0.5], maxlen=2), "best": np.float64(0.25), "config": Config(7)}

        def load_state_dict(self, state):
            self.loaded = state

    mine = Mine()
    options = {**QUIET, "callbacks": [mine], "max_epochs": 1, "limit_train_batches": 2}
    trainer = L.Trainer(**options)
    trainer.fit(BoringModel())
    with pytest.warns(UserWarning, match="Config, which only code can rebuild"):
        trainer.save_checkpoint("a.ckpt")
    options["max_epochs"] = 2
    with pytest.warns(UserWarning, match="config is left out"):
        L.Trainer(**options).fit(BoringModel(), ckpt_path="a.ckpt")
    assert mine.loaded == {"recent": deque([0.5]), "best": 0.25}
    L.Trainer(**options).fit(BoringModel(), ckpt_path="a.ckpt", weights_only=False)
    assert mine.loaded["config"] == Config(7)


class Timed(BoringModel):
    def __init__(self, table, wait, start):
        super().__init__()
        self.save_hyperparameters()


def test_hyperparameters_of_these_kinds_come_back_too():
    module = Timed(np.arange(3), timedelta(hours=1), datetime(2026, 1, 2))
    checkpoint = {"state_dict": module.state_dict(), "fulmen": {"version": 1}}
    hparams.store(checkpoint, module)
    files.write(checkpoint, "a.ckpt")
    again = Timed.load_from_checkpoint("a.ckpt").hparams
    assert again.table.tolist() == [0, 1, 2]
    assert (again.wait, again.start) == (timedelta(hours=1), datetime(2026, 1, 2))
