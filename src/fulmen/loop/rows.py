"""Rows for the loggers."""

from __future__ import annotations

from typing import Any

from fulmen.logs import read


def write(loggers: list[Any], values: dict[str, Any], step: int, epoch: int | None) -> None:
    """Send the values to every logger as floats; a value that the user logged as "step" takes the place of `step`."""
    if not values or not loggers:
        return
    row: dict[str, Any] = {name: float(value) for name, value in read(values).items()}
    if "step" in row:
        step = int(row.pop("step"))
    elif epoch is not None:
        row.setdefault("epoch", epoch)
    for logger in loggers:
        logger.log_metrics(row, step)
        if not logger.paces_itself:
            logger.save()
