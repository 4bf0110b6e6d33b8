"""Show what the model consists of when training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulmen.callbacks.base import Callback
from fulmen.summary import ModelSummary as Summary
from fulmen.summary import check_depth, summarize, summary_table
from fulmen.warn import rank_zero_info

if TYPE_CHECKING:
    from fulmen.module import LightningModule
    from fulmen.trainer import Trainer


class ModelSummary(Callback):
    """Shows the layers down to `max_depth` levels (-1: all, 0: show nothing), and how many parameters train.

    Override `summarize` to show it elsewhere; it gets `summarize_kwargs` too.
    """

    def __init__(self, max_depth: int = 1, **summarize_kwargs: Any) -> None:
        check_depth(max_depth)
        self._max_depth = max_depth
        self._summarize_kwargs = summarize_kwargs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._max_depth:
            return
        summary = self._summary(trainer, pl_module)  # on all ranks: a sharded model may need them for its forward
        if trainer.is_global_zero:
            self.summarize(
                summary._get_summary_data(),
                summary.total_parameters,
                summary.trainable_parameters,
                summary.model_size,
                summary.total_training_modes,
                total_flops=summary.total_flops,
                **self._summarize_kwargs,
            )

    def _summary(self, trainer: Trainer, pl_module: LightningModule) -> Summary:
        return summarize(pl_module, max_depth=self._max_depth)

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
        """Show the columns in `summary_data` and the totals; `model_size` is in megabytes."""
        numbers = (total_parameters, trainable_parameters, model_size, total_training_modes, total_flops)
        rank_zero_info("\n" + summary_table(summary_data, *numbers))
