"""`import fulmen`: names on first use."""

from __future__ import annotations

import pytest

import fulmen
from fulmen.callbacks.base import Callback


def test_a_misspelt_name_says_the_nearest_right_one():
    with pytest.raises(AttributeError, match=r"^module 'fulmen' has no name 'Trianer'\. Did you mean 'Trainer'\?$"):
        fulmen.Trianer  # noqa: B018
    with pytest.raises(AttributeError, match=r"Did you mean 'callbacks'\?$"):
        fulmen.calbacks  # noqa: B018


def test_modules_are_attributes_of_the_package():
    assert fulmen.callbacks.Callback is fulmen.Callback is Callback


def test_every_name_is_listed_by_dir():
    assert {*fulmen.__all__, "callbacks", "loggers"} <= set(dir(fulmen))


def test_paths_of_the_documented_interface_lead_to_the_same_objects():
    from fulmen.pytorch.callbacks import ModelCheckpoint  # pyright: ignore
    from fulmen.utilities.rank_zero import rank_zero_only

    assert ModelCheckpoint is fulmen.callbacks.ModelCheckpoint is fulmen.pytorch.callbacks.ModelCheckpoint
    assert rank_zero_only is fulmen.utilities.rank_zero_only
    assert fulmen.pytorch.Trainer is fulmen.Trainer


def test_what_is_not_there_yet_says_so():
    with pytest.raises(AttributeError, match="Fabric is not part of Fulmen yet"):
        fulmen.Fabric  # noqa: B018
    with pytest.raises(ImportError, match=r"'fulmen.callbacks' has no name 'Timr'. Did you mean 'Timer'\?"):
        from fulmen.callbacks import Timr  # noqa: F401
