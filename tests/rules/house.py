"""The source as the rules see it: modules, their lines, what each imports when it is imported.

python tests/rules/house.py            lines of each room, beside the plan
python tests/rules/house.py --names    the public names, for public_names.txt
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOP = Path(__file__).parents[2]
SOURCE = TOP / "src" / "fulmen"


@dataclass(frozen=True)
class Module:
    """One file of the source."""

    name: str  # "fulmen.loop.train"; a package has the name without "__init__"
    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        return self.path.relative_to(SOURCE).as_posix()

    @property
    def room(self) -> str:
        """The name of the folder or top-level file: "loop", "trainer"."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found[name] = Module(name, path, text, ast.parse(text))
    return found


def imported_names(module: Module, everywhere: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of what is imported when the module is; `everywhere`: inside functions too.

    `from a import b` gives "a.b". What stands under `if TYPE_CHECKING` is left out.
    """
    waiting: list[ast.AST] = [module.tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not everywhere:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{_absolute(module, node)}.{alias.name}"
        waiting.extend(ast.iter_child_nodes(node))


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    if not module.is_package:
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def homes(module: Module) -> dict[str, str]:
    """Names that a package loads on first use, with the module each comes from (its `_HOMES`)."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            table = ast.literal_eval(node.value)
            return {k: v if v.startswith("fulmen.") else f"{module.name}.{v}" for k, v in table.items()}
    return {}


def imported_modules(module: Module, everywhere: bool = False) -> set[str]:
    """Modules of the package that importing this one runs directly, names loaded on first use included."""
    found: set[str] = set()
    for _, dotted in imported_names(module, everywhere):
        if dotted.split(".")[0] != "fulmen":
            continue
        owner, _, name = dotted.rpartition(".")
        dotted = homes(modules()[owner]).get(name, dotted) if owner in modules() else dotted
        while dotted not in modules():
            dotted = dotted.rpartition(".")[0]
        while dotted and not module.name.startswith(f"{dotted}."):  # a package runs before what is in it
            found.add(dotted)
            dotted = dotted.rpartition(".")[0]
    return found - {module.name}


def none(found: Iterable[str]) -> None:
    """Fail with a line for each thing found, all of them."""
    found = sorted(found)
    assert not found, "\n" + "\n".join(found)


# ---- printed: `python tests/rules/house.py`

PLAN = {
    "__init__": 80, "module": 450, "datamodule": 110, "trainer": 450, "fabric": 260, "options": 200, "hooks": 170,
    "logs": 360, "optim": 360, "data": 400, "precision": 280, "device": 200, "seed": 130, "tree": 150, "errors": 80,
    "warn": 110, "tune": 280, "cli": 350, "loop": 960, "strategy": 1730, "checkpoint": 1040, "callbacks": 1300,
    "loggers": 540, "profile": 300, "tools": 260, "compat": 1400,
}  # fmt: skip
TOTAL = 12_000


def rooms() -> str:
    """Lines of each room beside the plan; a room that the plan does not know has 0 there."""
    have: Counter[str] = Counter()
    for module in modules().values():
        have[module.room] += module.lines
    rows = [f"{'room':<14}{'lines':>8}{'plan':>8}{'left':>8}"]
    for room in sorted({*have, *PLAN}, key=lambda room: -have[room]):
        plan = PLAN.get(room, 0)
        rows.append(f"{room:<14}{have[room]:>8,}{plan:>8,}{plan - have[room]:>8,}")
    rows.append(f"{'in all':<14}{have.total():>8,}{TOTAL:>8,}{TOTAL - have.total():>8,}")
    return "\n".join(rows)


def public_names() -> list[str]:
    """Every name in the `__all__` of a module outside compat, with its module."""
    return sorted(
        f"{name}.{exported}"
        for name, module in modules().items()
        if module.room != "compat" and "__all__" in module.text
        for exported in importlib.import_module(name).__all__
    )


if __name__ == "__main__":
    print("\n".join(public_names()) if "--names" in sys.argv else rooms())
