"""What users ask for by name: strategies and accelerators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fulmen.errors import MisconfigurationException, nearest


class Registry(dict[str, dict[str, Any]]):
    """Classes by name; `kind` is the word for what they are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(
        self,
        name: str,
        made_of: Callable[..., Any] | str | None = None,
        description: str = "",
        override: bool = False,
        **init_params: Any,
    ) -> Any:
        """Add a class, which `get` calls with `init_params`; without one (also given as `kind`) a class decorator."""
        made_of = init_params.pop(self.kind, made_of)
        if name in self and not override:
            raise MisconfigurationException(f"{self.kind} {name!r} is registered already; override=True replaces it.")
        if made_of is None:
            return lambda cls: self.register(name, cls, description, override, **init_params)
        entry = {self.kind: made_of, f"{self.kind}_name": name, "description": description, "init_params": init_params}
        self[name] = entry
        return made_of

    def get(self, name: str, default: Any = None) -> Any:
        """A new one of that name, or `default`."""
        if name in self:
            return self[name][self.kind](**self[name]["init_params"])
        if default is None:
            raise KeyError(f"No {self.kind} {name!r} is registered.{nearest(name, self)}")
        return default

    def remove(self, name: str) -> None:
        """Forget the one of that name."""
        del self[name]
