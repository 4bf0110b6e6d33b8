"""Loggers of older releases."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from inspect import getsource
from typing import Any

from fulmen.compat.callbacks import set_limit
from fulmen.compat.functions import _convert_params, _flatten_dict, _sanitize_params
from fulmen.loggers import Logger, TensorBoardLogger
from fulmen.loggers.base import prefixed
from fulmen.warn import warn_once


def complete(found: Any) -> None:
    """Give the base class of loggers what it had for them to call."""
    if found is LoggerCollection:
        from fulmen.trainer import Trainer

        LoggerCollection.wanted = True
        complete_trainer(Trainer)
    for function in (_convert_params, _flatten_dict, _sanitize_params):
        setattr(Logger, function.__name__, staticmethod(function))
    members: dict[str, Callable[..., Any]] = {
        "__init__": lambda self, agg_key_funcs=None, agg_default_func=None: super(Logger, self).__init__(),
        "_add_prefix": lambda self, metrics: prefixed(metrics, getattr(self, "_prefix", "")),
        "agg_and_log_metrics": lambda self, metrics, step=None: self.log_metrics(metrics, step),
        "close": lambda self: self.save(),
    }
    for name, member in members.items():
        setattr(Logger, name, member)


def complete_trainer(trainer: Any) -> None:
    """Let `trainer.logger` be all of several loggers, and limits be set on the trainer."""
    for name in ("max_epochs", "min_epochs", "max_steps"):
        setattr(trainer, name, getattr(trainer, name).setter(partial(set_limit, name)))
    for name in ("__getitem__", "__iter__"):
        setattr(Logger, name, _of_all(name))
    trainer.logger = trainer.logger.getter(_first)


AS_LIST = re.compile(
    r"\.experiment\[|(in|, \w+ =) [\w.]+\.experiment\b(?!\.)|(\w+) = [\w.]+\.experiment\b(?!\.)(?s:.*)\b\2\[\d"
)


@cache
def _takes_several(module: str) -> bool:
    """Whether a source takes `experiment` for a list, by an index or in a loop, at once or by a name that it gives."""
    with suppress(OSError, TypeError):
        return bool(AS_LIST.search(getsource(sys.modules[module])))
    return False


def _of_all(method: str) -> Callable[..., Any]:
    """`trainer.logger` was all of several loggers, of which today's is the first."""

    def call(self: Logger, *arguments: Any) -> Any:
        warn_once("trainer.logger as a list of several loggers is trainer.loggers today.")
        return getattr(getattr(self, "_beside", [self]), method)(*arguments)

    return call


def _first(trainer: Any) -> Any:
    """The first, which knows the others; all in one for programs that know the class of that, or take it for a list."""
    loggers = trainer.loggers
    if len(loggers) > 1:
        sources = {"__main__", *(type(one).__module__ for one in (trainer._module, *trainer.callbacks) if one)}
        if LoggerCollection.wanted or any(map(_takes_several, sources)):
            return LoggerCollection(loggers)
    for logger in loggers[:1]:
        logger._beside = loggers
        return logger
    return None


def _each(method: str) -> Callable[..., None]:
    """A method that calls the same one of every logger."""

    def call(self: LoggerCollection, *args: Any, **kwargs: Any) -> None:
        for logger in self:
            getattr(logger, method)(*args, **kwargs)

    return call


class LoggerCollection(Logger):
    """Several loggers in one, which the trainer once made of a list."""

    wanted = False

    def __init__(self, logger_iterable: Iterable[Any]) -> None:
        super().__init__()
        self._logger_iterable = list(logger_iterable)

    def __getitem__(self, index: int) -> Any:
        return self._logger_iterable[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._logger_iterable)

    @property
    def experiment(self) -> list[Any]:
        return [logger.experiment for logger in self._logger_iterable]

    @property
    def name(self) -> str:
        return "_".join(dict.fromkeys(str(logger.name) for logger in self._logger_iterable))

    @property
    def version(self) -> str:
        return "_".join(dict.fromkeys(str(logger.version) for logger in self._logger_iterable))

    log_metrics, log_hyperparams, log_graph = map(_each, ("log_metrics", "log_hyperparams", "log_graph"))
    save, finalize, after_save_checkpoint = map(_each, ("save", "finalize", "after_save_checkpoint"))


class TestTubeLogger(TensorBoardLogger):
    """The logger of the package test_tube, which wrote TensorBoard files as this does."""

    __test__ = False  # not a test, for pytest

    def __init__(
        self, save_dir: str, name: str = "default", description: str | None = None, debug: bool = False,
        version: int | None = None, create_git_tag: bool = False, log_graph: bool = False, prefix: str = "",
    ) -> None:  # fmt: skip
        super().__init__(
            save_dir, name=name, version=version, log_graph=log_graph, prefix=prefix, default_hp_metric=False
        )
        self.debug = debug

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.debug:
            super().log_metrics(metrics, step)
