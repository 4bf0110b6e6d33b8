"""Loaders that give None instead of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, Numbers, Validated, make_trainer, numbers
from torch import Tensor
from torch.utils.data import DataLoader


def good(samples: list[Tensor]) -> Tensor | None:
    """Samples 1 and 3 are bad."""
    return None if samples[0][0].item() in (1, 3) else torch.stack(samples)


class Listed(Net):
    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.seen: list[Any] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(("start", batch_idx))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(("step", batch_idx))
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(("end", batch_idx))


@pytest.mark.filterwarnings("ignore:The train dataloader gave None")
def test_a_batch_that_is_none_is_passed_over():
    module, trainer = Listed(), make_trainer()
    trainer.fit(module, DataLoader(Numbers(3), collate_fn=good))
    whole = [("start", 0), ("step", 0), ("end", 0), ("end", 1), ("start", 2), ("step", 2), ("end", 2)]
    assert module.seen == whole
    assert trainer.global_step == 2

    alone = Net(lr=0.1)
    make_trainer().fit(alone, DataLoader(Numbers(3), sampler=[0, 2]))
    assert torch.equal(module.layer.weight, alone.layer.weight)


def test_it_is_told_and_the_epochs_end_is_as_ever():
    module, trainer = Validated(), make_trainer()
    with pytest.warns(UserWarning, match="gave None instead of a batch"):
        trainer.fit(module, DataLoader(Numbers(4), collate_fn=good), numbers(1))
    assert trainer.evaluation.done == [1]
    assert trainer.current_epoch == 1
