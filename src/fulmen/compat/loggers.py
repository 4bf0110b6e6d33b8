"""Loggers of older releases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fulmen.loggers import Logger, TensorBoardLogger


class LoggerCollection(Logger):
    """Several loggers in one, which the trainer once made of a list; it takes them out of one again today."""

    def __init__(self, logger_iterable: Iterable[Logger]) -> None:
        super().__init__()
        self._logger_iterable = list(logger_iterable)

    def __getitem__(self, index: int) -> Logger:
        return self._logger_iterable[index]

    def __iter__(self) -> Iterator[Logger]:
        return iter(self._logger_iterable)

    def __len__(self) -> int:
        return len(self._logger_iterable)

    @property
    def experiment(self) -> list[Any]:
        return [logger.experiment for logger in self]

    @property
    def name(self) -> str:
        return "_".join(dict.fromkeys(str(logger.name) for logger in self))

    @property
    def version(self) -> str:
        return "_".join(dict.fromkeys(str(logger.version) for logger in self))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for logger in self:
            logger.log_metrics(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        for logger in self:
            logger.log_hyperparams(params, *args, **kwargs)

    def save(self) -> None:
        for logger in self:
            logger.save()

    def finalize(self, status: str) -> None:
        for logger in self:
            logger.finalize(status)


class TestTubeLogger(TensorBoardLogger):
    """The logger of the package test_tube, which wrote TensorBoard files as this does."""

    __test__ = False  # not a test, for pytest

    def __init__(
        self,
        save_dir: str,
        name: str = "default",
        description: str | None = None,
        debug: bool = False,
        version: int | None = None,
        create_git_tag: bool = False,
        log_graph: bool = False,
        prefix: str = "",
    ) -> None:
        super().__init__(
            save_dir, name=name, version=version, log_graph=log_graph, prefix=prefix, default_hp_metric=False
        )
        self.debug = debug

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if not self.debug:
            super().log_metrics(metrics, step)
