"""Loggers of older releases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fulmen.loggers import Logger, TensorBoardLogger


def _each(method: str) -> Callable[..., None]:
    """A method that calls the same one of every logger."""

    def call(self: LoggerCollection, *args: Any, **kwargs: Any) -> None:
        for logger in self:
            getattr(logger, method)(*args, **kwargs)

    return call


class LoggerCollection(Logger):
    """Several loggers in one, which the trainer once made of a list."""

    def __init__(self, logger_iterable: Iterable[Any]) -> None:
        super().__init__()
        self._logger_iterable = list(logger_iterable)

    def __getitem__(self, index: int) -> Any:
        return self._logger_iterable[index]

    @property
    def experiment(self) -> list[Any]:
        return [logger.experiment for logger in self._logger_iterable]

    @property
    def name(self) -> str:
        return "_".join(dict.fromkeys(str(logger.name) for logger in self._logger_iterable))

    @property
    def version(self) -> str:
        return "_".join(dict.fromkeys(str(logger.version) for logger in self._logger_iterable))

    log_metrics = _each("log_metrics")
    log_hyperparams = _each("log_hyperparams")
    log_graph = _each("log_graph")
    after_save_checkpoint = _each("after_save_checkpoint")
    save = _each("save")
    finalize = _each("finalize")


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
