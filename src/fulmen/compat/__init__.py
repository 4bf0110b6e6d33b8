"""The past, in one room: old import names, arguments, attributes, hooks and checkpoints, as today's.

    fulmen run train.py                 the script as it is, with `pytorch_lightning` meaning Fulmen
    pytest -p fulmen.compat.pytest      the same for tests
    %load_ext fulmen.compat             the same in a notebook

In a program of one's own, `fulmen.compat.install()` before the first old import does it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from fulmen.compat.finder import Finder
from fulmen.compat.names import ROOTS
from fulmen.warn import rank_zero_warn

FOLDER = str(Path(__file__).parent / "roots")
"""A folder with one small file for each old root: on PYTHONPATH, it brings the alias into child processes."""


def install() -> None:
    """From now on the old import names mean Fulmen, in this process and in those that it starts.

    Installed packages of these names are left alone and not used; calling it again changes nothing.
    """
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        _forget_imported()
        sys.meta_path.insert(0, Finder())
    if FOLDER not in sys.path:
        sys.path.insert(1, FOLDER)  # where PYTHONPATH stands; gives importlib.metadata the versions, too
    os.environ["PYTHONPATH"] = search_path()


def search_path() -> str:
    """The PYTHONPATH that a child process needs to have the alias."""
    parent = str(Path(__file__).parents[2])
    wanted = [FOLDER] if parent.endswith("-packages") else [FOLDER, parent]
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join([entry for entry in wanted if entry not in inherited] + inherited)


def _forget_imported() -> None:
    """Drop what was imported under the old names from elsewhere, except a root of ours that is being imported."""
    names = [name for name in sys.modules if name.partition(".")[0] in ROOTS]
    foreign = [name for name in names if FOLDER not in str(getattr(sys.modules[name], "__file__", ""))]
    for name in foreign:
        del sys.modules[name]
    if foreign:
        rank_zero_warn(
            f"{foreign[0]!r} was imported before fulmen.compat.install(): what was taken from it by then stays "
            "Lightning's, and does not mix with Fulmen's. Call install() first."
        )


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext fulmen.compat` in a notebook."""
    install()
