"""What an old import name adds to today's classes goes again after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from torch.utils.data import DataLoader

from fulmen.combined import CombinedLoader
from fulmen.compat import names

CLASSES = {
    kind for home in names.COMPLETED for kind in names.load(home).__mro__ if kind.__module__.startswith("fulmen.")
} | {CombinedLoader, DataLoader}


@pytest.fixture(autouse=True)
def todays_classes() -> Iterator[None]:
    before = {kind: dict(vars(kind)) for kind in CLASSES}
    lists = [(one, list(one)) for one in (sys.path, sys.meta_path)]  # a test may put another list in their place
    yield
    for one, entries in lists:
        one[:] = entries
    for name in [name for name in sys.modules if name.partition(".")[0] in names.ROOTS]:
        del sys.modules[name]
    for kind, members in before.items():
        for name in [name for name in vars(kind) if name not in members]:
            delattr(kind, name)
        for name, member in members.items():
            if vars(kind)[name] is not member:
                setattr(kind, name, member)
