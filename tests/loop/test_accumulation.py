"""accumulate_across_epochs: a step is of as many batches wherever epochs end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, Validated, make_trainer, numbers

import fulmen as L
from fulmen.callbacks import GradientAccumulationScheduler
from fulmen.errors import MisconfigurationException


def by_hand(epochs: int, batches: int, accumulate: int) -> list[torch.Tensor]:
    """The weight after each step; the last one is of what is left."""
    module, found = Validated(lr=0.01), []
    optimizer = module.configure_optimizers()
    for number in range(epochs * batches):
        (module(torch.full((1, 2), float(number % batches))).mean() / accumulate).backward()
        if (number + 1) % accumulate == 0 or number + 1 == epochs * batches:
            optimizer.step()
            optimizer.zero_grad()
            found.append(module.layer.weight.detach().clone())
    return found


class Weights(L.Callback):
    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step:
            self.found.append(pl_module.layer.weight.detach().clone())


@pytest.mark.parametrize(("epochs", "batches", "accumulate"), [(4, 3, 4), (3, 3, 4), (5, 2, 8), (2, 5, 5), (3, 4, 1)])
def test_steps_are_of_as_many_batches_over_the_ends_of_epochs(epochs, batches, accumulate):
    module, weights = Validated(lr=0.01), Weights()
    options = {"max_epochs": epochs, "accumulate_grad_batches": accumulate, "accumulate_across_epochs": True}
    trainer = make_trainer(callbacks=weights, **options)
    trainer.fit(module, numbers(batches), numbers(1))
    expected = by_hand(epochs, batches, accumulate)
    assert trainer.global_step == trainer.estimated_stepping_batches == len(expected)
    assert all(map(torch.equal, [*weights.found, module.layer.weight], expected))


def test_an_epoch_of_fewer_batches_is_told_unless_they_add_up_over_epochs():
    with pytest.warns(UserWarning, match=r"is more than the 3 batches of an epoch.*accumulate_across_epochs=True"):
        make_trainer(accumulate_grad_batches=4).fit(Net(), numbers(3))


def test_a_schedule_of_epochs_is_another_wish():
    trainer = make_trainer(callbacks=GradientAccumulationScheduler({0: 2}), accumulate_across_epochs=True)
    with pytest.raises(MisconfigurationException, match="accumulate_across_epochs=True goes on over"):
        trainer.fit(Net(), numbers(3))


class Saves(L.Callback):
    """Saves at a moment of the second epoch, as a signal may."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def _save(self, moment: str, trainer: Any) -> None:
        if moment == self.moment and (trainer.current_epoch == 1 or moment == "on_train_start"):
            trainer.save_checkpoint(f"{moment}.ckpt")
            self.moment = ""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._save("on_train_start", trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._save("on_train_epoch_start", trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._save("on_train_batch_start", trainer)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self._save("on_train_batch_end", trainer)


@pytest.mark.parametrize("moment", ["on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"])
def test_gradients_that_wait_are_in_each_checkpoint(moment):
    def fit(*callbacks: Any, ckpt_path: Any = None) -> Any:
        module, options = Validated(lr=0.01), {"max_epochs": 4, "accumulate_grad_batches": 5}
        trainer = make_trainer(callbacks=list(callbacks), accumulate_across_epochs=True, **options)
        trainer.fit(module, numbers(3), numbers(1), ckpt_path=ckpt_path)
        return module.layer.weight

    whole = fit(Saves(moment))
    assert torch.equal(fit(Saves("on_train_start"), ckpt_path=f"{moment}.ckpt"), whole)
    assert torch.equal(fit(ckpt_path="on_train_start.ckpt"), whole)
