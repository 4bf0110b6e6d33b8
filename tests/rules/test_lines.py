"""The house stays small."""

from __future__ import annotations

import pytest
from rules.house import TOTAL, modules, none, rooms

FILE, FUNCTION = 450, 60


HIGHEST = 24_460  # lowered whenever the source shrinks, never raised without a word in ARCHITECTURE.md


@pytest.mark.xfail(strict=True, reason="over the plan: the table in ARCHITECTURE.md says where, and what is to be done")
def test_source_is_at_most_12_000_lines():
    assert sum(module.lines for module in modules().values()) <= TOTAL, f"\n{rooms()}"


def test_source_grows_no_further():
    assert sum(module.lines for module in modules().values()) <= HIGHEST, f"\n{rooms()}"


def test_no_file_is_longer_than_450_lines():
    none(f"{m.place}: {m.lines}" for m in modules().values() if m.lines > FILE)


def test_no_function_is_longer_than_60_lines():
    lengths = {
        f"{m.place}:{f.lineno} {f.name}": f.end_lineno - f.lineno + 1 for m in modules().values() for f in m.functions
    }
    none(f"{place}: {length}" for place, length in lengths.items() if length > FUNCTION)
