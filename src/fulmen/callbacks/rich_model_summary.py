"""The model's summary in colours."""

from __future__ import annotations

from typing import Any

from fulmen.callbacks.model_summary import ModelSummary
from fulmen.summary import totals


class RichModelSummary(ModelSummary):
    """Like `ModelSummary`, drawn by rich; `summarize_kwargs` are those of `rich.table.Table`."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        from rich import get_console
        from rich.table import Table

        console = get_console()
        table = Table(**{"header_style": "bold magenta", **summarize_kwargs})
        for title, _ in summary_data:
            right = title in ("Params", "FLOPs", "In sizes", "Out sizes")
            style = {"Name": "bold", "Type": "cyan"}.get(title, "")
            table.add_column(title, justify="right" if right else "left", style=style, no_wrap=title == "Name")
        for row in zip(*(texts for _, texts in summary_data), strict=True):
            table.add_row(*(text.rstrip() for text in row))
        console.print(table)
        numbers = totals(total_parameters, trainable_parameters, model_size, total_training_modes, total_flops)
        for title, number in numbers.items():
            console.print(f"[bold]{title}[/]: {number}")
