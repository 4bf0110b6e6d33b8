"""The public names are those of public_names.txt; `python tests/rules/house.py --names` prints what it should say."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from rules.house import homes, modules, public_names

LIST = Path(__file__).with_name("public_names.txt")


def test_public_names_are_the_listed_ones():
    have, listed = set(public_names()), set(LIST.read_text().split())
    assert {"added": sorted(have - listed), "lost": sorted(listed - have)} == {"added": [], "lost": []}


def test_every_public_name_can_be_had():
    for name in public_names():
        owner, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(owner), last), name


def test_names_loaded_on_first_use_are_those_that_type_checkers_see():
    for module in modules().values():
        if table := homes(module):
            typed = {f"{home}.{name}" for name, home in table.items()}
            assert set(names_for_type_checkers(module.tree)) == typed, module.place


def names_for_type_checkers(tree: ast.Module) -> list[str]:
    block = next(n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    return [f"{node.module}.{alias.name}" for node in block.body for alias in node.names if node.module != "fulmen"]
