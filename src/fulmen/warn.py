"""Messages to the user: on rank zero only, and each warning once.

Information goes to the logger "fulmen"; it is printed on stderr unless the program has set up `logging` itself.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")

warned: set[str] = set()
"""The texts that `warn_once` has shown in this process."""


class PossibleUserWarning(UserWarning):
    """About something that may be a mistake; `disable_possible_user_warnings` silences the whole kind."""


class _Stderr(logging.Handler):
    """Prints for programs that have no logging of their own; the others get the record through the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            print(self.format(record), file=sys.stderr)


log = logging.getLogger("fulmen")
if log.level == logging.NOTSET:
    log.setLevel(logging.INFO)
if not log.handlers:
    log.addHandler(_Stderr())


@overload
def rank_zero_only(fn: Callable[P, T]) -> Callable[P, T | None]: ...
@overload
def rank_zero_only(fn: Callable[P, T], default: D) -> Callable[P, T | D]: ...
def rank_zero_only(fn: Callable[P, T], default: Any = None) -> Callable[P, Any]:
    """Make `fn` run on rank zero only; the other ranks get `default`.

    The rank is `rank_zero_only.rank`, which a strategy sets; before that it comes from the launcher's environment.
    """

    @wraps(fn)
    def on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> Any:
        return fn(*args, **kwargs) if rank_zero_only.rank == 0 else default  # type: ignore[attr-defined]

    return on_rank_zero


def _rank_of_environment() -> int:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if (value := os.environ.get(name, "")).isdecimal():
            return int(value)
    return 0


rank_zero_only.rank = _rank_of_environment()  # type: ignore[attr-defined]


@rank_zero_only
def rank_zero_warn(message: str | Warning, stacklevel: int = 4, **kwargs: Any) -> None:
    """Warn on rank zero; the default `stacklevel` names the calling line, and `kwargs` may hold a `category`."""
    warnings.warn(message, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_deprecation(message: str | Warning, stacklevel: int = 5, **kwargs: Any) -> None:
    """Say on rank zero that something will go away."""
    warnings.warn(message, stacklevel=stacklevel - 2, **{"category": DeprecationWarning, **kwargs})


@rank_zero_only
def rank_zero_info(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log at level INFO on rank zero; the arguments are those of `logging.info`."""
    log.info(*args, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_debug(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log at level DEBUG on rank zero; the arguments are those of `logging.debug`."""
    log.debug(*args, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def warn_once(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn on rank zero, the first time only that this process has this text to say; it names the user's line."""
    if message not in warned:
        warned.add(message)
        warnings.warn(message, category, stacklevel=_level_of_user())


def _level_of_user() -> int:
    """How far above the caller of this the nearest code outside of the package stands."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("fulmen.", "torch.", "importlib")
    ):
        frame, level = frame.f_back, level + 1
    return level


def disable_possible_user_warnings(module: str = "") -> None:
    """Hide every `PossibleUserWarning`, or only those shown for modules that match the expression `module`.

    The environment variable `POSSIBLE_USER_WARNINGS=off` does the same when Fulmen is imported.
    """
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)


if os.environ.get("POSSIBLE_USER_WARNINGS", "").lower() in ("0", "off"):
    disable_possible_user_warnings()
