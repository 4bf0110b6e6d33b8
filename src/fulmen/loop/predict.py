"""Prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from fulmen import data
from fulmen.errors import MisconfigurationException
from fulmen.hooks import check_step
from fulmen.loop.evaluate import pulled, step_call
from fulmen.loop.fetch import Fetch
from fulmen.loop.source import Source
from fulmen.parameters import modes_kept

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


class PredictLoop:
    """One pass of predict_step over the loaders; keeps what it returns, unless told not to, or that of all ranks."""

    stage = "predict"

    def __init__(self, trainer: Trainer, source: Source, keep: bool | str) -> None:
        self.trainer, self.source, self.keep = trainer, source, bool(keep)
        source.whole_batches = keep == "all" and trainer.world_size > 1
        self.module = trainer.lightning_module
        self.counts: list[int | float] = []
        self.outputs: list[list[Any]] = []  # of each loader
        self.batch_idx, self.loader_idx = 0, 0
        self.fetch: Fetch | None = None

    def run(self) -> Any:
        """The outputs: a list, or with several loaders a list for each; None if they are not kept."""
        trainer, hooks = self.trainer, self.trainer.hooks
        self.source.load(trainer.strategy, trainer.options.use_distributed_sampler, overfit=False)
        if self.source.whole_batches and not all(map(data.takes_turns, self.source.loaders)):
            raise MisconfigurationException(
                "predict(return_predictions='all') with several processes needs DataLoaders over datasets with "
                "__getitem__ that the trainer shares out: no stream, no distributed sampler of your own, and "
                "use_distributed_sampler=True."
            )
        self.counts = self.source.limits(trainer.limit_predict_batches, "limit_predict_batches")
        takes = check_step(self.module, "predict_step")
        no_grad = torch.inference_mode() if trainer.options.inference_mode else torch.no_grad()
        with modes_kept(self.module), no_grad:
            hooks.on_predict_model_eval[0]() if hooks.on_predict_model_eval else self.module.eval()
            for hook in (*hooks.on_predict_start, *hooks.on_predict_epoch_start):
                hook()
            for idx, count in enumerate(self.counts):
                self.outputs.append([])
                self.run_loader(idx, count, takes)
            for hook in (*hooks.on_predict_epoch_end, *hooks.on_predict_end):
                hook()
        self.fetch = None
        if self.source.whole_batches:
            self.outputs = [
                list(in_turn(ranks)) for ranks in zip(*trainer.strategy.gather_object(self.outputs), strict=True)
            ]
        return self.predictions if self.keep else None

    @property
    def predictions(self) -> list[Any]:
        """What was kept so far: a flat list, or with several loaders a list for each."""
        if not self.keep:
            return []
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    def run_loader(self, loader_idx: int, count: int | float, takes: str) -> None:
        trainer, hooks, kept = self.trainer, self.trainer.hooks, self.outputs[loader_idx]
        self.loader_idx = loader_idx
        prepare = trainer.preparation("predict", loader_idx)
        fetch = self.fetch = Fetch(self.source.loaders[loader_idx], self.source.lengths[loader_idx], count, prepare)
        if takes == "iterator":
            for output in pulled(trainer, "predict", fetch, loader_idx):
                if self.keep:
                    kept.append(output)
            return
        batch_start, batch_end = hooks.on_predict_batch_start, hooks.on_predict_batch_end
        (run_step, takes_loader), keep = step_call(trainer, "predict_step", takes, len(self.counts) > 1), self.keep
        for idx, batch in enumerate(fetch):
            self.batch_idx = idx
            for hook in batch_start:
                hook(batch, idx, loader_idx)
            output = run_step(batch, idx, loader_idx) if takes_loader else run_step(batch, idx)
            for hook in batch_end:
                hook(output, batch, idx, loader_idx)
            if keep:
                kept.append(output)


def in_turn(ranks: Sequence[list[Any]]) -> Iterator[Any]:
    """The first of each rank, the second of each, and so on."""
    none_left = object()
    for turn in zip_longest(*ranks, fillvalue=none_left):
        yield from (output for output in turn if output is not none_left)
