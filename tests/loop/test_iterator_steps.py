"""Steps written as (dataloader_iter), which take their batches themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import make_trainer, numbers

import fulmen as L


class Pulling(L.LightningModule):
    def __init__(self, each: int = 1) -> None:
        super().__init__()
        self.layer, self.each, self.seen = torch.nn.Linear(2, 1), each, []

    def pull(self, stage: str, iterator: Any) -> torch.Tensor:
        for _ in range(self.each):
            batch, batch_idx, loader_idx = next(iterator)
            self.seen.append((stage, batch_idx, loader_idx, batch.sum().item()))
        return batch

    def training_step(self, dataloader_iter: Any) -> torch.Tensor:
        loss = self.layer(self.pull("train", dataloader_iter)).mean()
        self.log("loss", loss, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, dataloader_iter: Any) -> None:
        self.log("total", self.pull("val", dataloader_iter).sum(), batch_size=1)

    def test_step(self, dataloader_iter: Any) -> None:
        self.log("total", self.pull("test", dataloader_iter).sum(), batch_size=1)

    def predict_step(self, dataloader_iter: Any) -> float:
        return self.pull("predict", dataloader_iter).sum().item()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(("end", batch_idx, 0, batch.sum().item()))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_fit_gives_them_each_batch_with_its_numbers():
    module = Pulling()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, numbers(2), numbers(1))

    train = [("train", 0, 0, 0.0), ("end", 0, 0, 0.0), ("train", 1, 0, 2.0), ("end", 1, 0, 2.0)]
    assert module.seen == 2 * [*train, ("val", 0, 0, 0.0)]
    assert trainer.global_step == 4
    assert trainer.callback_metrics["total"] == 0


def test_a_step_may_take_several():
    module = Pulling(each=2)
    trainer = make_trainer()
    trainer.fit(module, numbers(4), numbers(0))

    assert [entry[:2] for entry in module.seen] == [
        ("train", 0), ("train", 1), ("end", 0), ("train", 2), ("train", 3), ("end", 2),
    ]  # fmt: skip
    assert trainer.global_step == 2


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_several_loaders_are_evaluated_one_after_the_other(verb):
    module = Pulling()
    first, second = getattr(make_trainer(), verb)(module, [numbers(2), numbers(3)], verbose=False)

    assert [entry[1:3] for entry in module.seen] == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)]
    assert (first, second) == ({"total/dataloader_idx_0": 1.0}, {"total/dataloader_idx_1": 2.0})


def test_predictions_are_kept():
    assert make_trainer().predict(Pulling(), numbers(3)) == [0.0, 2.0, 4.0]
    assert make_trainer().predict(Pulling(), [numbers(1), numbers(2)]) == [[0.0], [0.0, 2.0]]
    assert make_trainer().predict(Pulling(), numbers(3), return_predictions=False) is None
