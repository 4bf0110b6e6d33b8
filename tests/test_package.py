"""`import fulmen`: names on first use."""

from __future__ import annotations

import pytest

import fulmen
from fulmen.callbacks.base import Callback


def test_a_misspelt_name_says_the_nearest_right_one():
    with pytest.raises(
        AttributeError, match=r"^module 'fulmen' has no attribute 'Trianer'\. Did you mean 'Trainer'\?$"
    ):
        fulmen.Trianer  # noqa: B018
    with pytest.raises(AttributeError, match=r"Did you mean 'callbacks'\?$"):
        fulmen.calbacks  # noqa: B018


def test_modules_are_attributes_of_the_package():
    assert fulmen.callbacks.Callback is fulmen.Callback is Callback


def test_every_name_is_listed_by_dir():
    assert {*fulmen.__all__, "callbacks", "loggers"} <= set(dir(fulmen))
