"""The import of old names: any dotted name under the old roots becomes a module made from the table in `names.py`.

Such a module holds no objects of its own. It finds them in Fulmen when they are first asked for, so that every path
leads to the same object, and importing one old module loads nothing that is not used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from fulmen.compat import names
from fulmen.errors import nearest


class OldModule(ModuleType):
    """A module of an old path, its names looked up in the table."""

    def __getattr__(self, name: str) -> Any:
        path = names.table_path(self.__name__)
        home = names.home(path, name) if path is not None else None
        if home:
            value = names.load(home)
            if room := names.COMPLETED.get(home):
                import_module(f"fulmen.compat.{room}").complete(value)
        elif path is not None and names.is_path(path, name):
            return import_module(f"{self.__name__}.{name}")
        else:
            raise AttributeError(reason(self.__name__, name), name=name, obj=self)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__all__})


class Finder(MetaPathFinder, Loader):
    """Answers for the old roots and everything below them."""

    roots: tuple[str, ...] = names.ROOTS

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        above, _, name = fullname.rpartition(".")
        if fullname.partition(".")[0] not in self.roots:
            return None
        if names.table_path(fullname) is not None:
            return ModuleSpec(fullname, self, origin="fulmen.compat.names", is_package=True)
        # `from module import name` asks for the module "module.name" when the module has no such attribute: the one
        # moment to say why in our words
        if sentence := reason(above, name, only_known=True):
            raise (ImportError if name[:1].isupper() else ModuleNotFoundError)(sentence)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        path = names.table_path(module.__name__)
        assert path is not None
        module.__all__ = names.public(path)  # type: ignore[attr-defined]
        module.__doc__ = f"Names of {module.__name__}, found in Fulmen."


class Elsewhere(Finder):
    """The same paths below `fulmen`, for `import fulmen as L` in a program that says L.pytorch or L.utilities."""

    roots = ("fulmen",)


def reason(module: str, name: str, only_known: bool = False) -> str:
    """Why `module` has no `name`, in one sentence; with `only_known`, "" where the table knows nothing of it."""
    if name.startswith("__"):
        return "" if only_known else f"module {module!r} has no attribute {name!r}"
    path = names.table_path(module) or ""
    if said := names.missing(path, name):
        return f"{module}.{name} {said}"
    if room := next((room for room, row in names.rows().items() if name in row.homes), ""):
        return f"module {module!r} has no name {name!r}: it is in {module.removesuffix(path).rstrip('.')}.{room}."
    rooms = {row.partition(".")[0] for row in names.rows()} if not path and name.islower() else ()
    others = nearest(name, rooms) or nearest(name, names.public(path))
    return "" if only_known and not others else f"module {module!r} has no name {name!r}.{others}"


def replace(root: str) -> None:
    """Put the old module in the place of the file of `roots/` that is being imported under its name."""
    del sys.modules[root]
    import_module(root)
