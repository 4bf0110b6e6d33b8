"""What an old import name adds to today's classes goes again after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fulmen.compat import names

ADDED = ("__init__", "add_argparse_args", "from_argparse_args", "parse_argparser", "get_deprecated_arg_names",
         "default_attributes", "get_progress_bar_dict")  # fmt: skip


@pytest.fixture(autouse=True)
def todays_classes() -> Iterator[None]:
    classes = [names.load(home) for home in names.COMPLETED]
    before = [{name: vars(kind)[name] for name in ADDED if name in vars(kind)} for kind in classes]
    path, finders = list(sys.path), list(sys.meta_path)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in [name for name in sys.modules if name.partition(".")[0] in names.ROOTS]:
        del sys.modules[name]
    for kind, members in zip(classes, before, strict=True):
        for name in ADDED:
            if name in members:
                setattr(kind, name, members[name])
            elif name in vars(kind):
                delattr(kind, name)
