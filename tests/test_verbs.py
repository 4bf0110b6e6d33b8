"""One verb after another, on one trainer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from small import Rows, Validated, make_trainer, numbers


class Adaptive(Validated):
    """Its optimizer has a state of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("loss", 1.0)
        return self(batch).mean()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("tested", 2.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def weights(epochs: int) -> torch.Tensor:
    module = Adaptive()
    make_trainer(max_epochs=epochs).fit(module, numbers(3), numbers(1))
    return module.layer.weight


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_checkpoint_saved_after_another_verb_is_gone_on_from(verb, tmp_path):
    trainer, module = make_trainer(max_epochs=2), Adaptive()
    trainer.fit(module, numbers(3), numbers(1))
    getattr(trainer, verb)(module, numbers(2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = Adaptive()
    trainer = make_trainer(max_epochs=3)
    trainer.fit(resumed, numbers(3), numbers(1), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(resumed.layer.weight, weights(3))
    assert (trainer.global_step, trainer.current_epoch) == (9, 3)
    assert "tested" not in trainer.callback_metrics


def test_fit_goes_on_after_another_verb():
    trainer, module = make_trainer(max_epochs=2), Adaptive()
    trainer.fit(module, numbers(3), numbers(1))
    trainer.test(module, numbers(1), verbose=False)
    assert trainer.num_training_batches == 3
    assert len(trainer.optimizers) == 1
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, numbers(3), numbers(1))
    assert (trainer.global_step, trainer.current_epoch) == (9, 3)


def test_another_modules_verb_knows_nothing_of_the_fit():
    trainer = make_trainer()
    trainer.fit(Adaptive(), numbers(3), numbers(1))
    trainer.test(Adaptive(), numbers(1), verbose=False)
    assert trainer.optimizers == []


def test_an_error_in_a_test_after_fit_is_not_told_as_one_of_fit():
    class Failing(Adaptive):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("here")

    trainer, module = make_trainer(), Failing()
    trainer.fit(module, numbers(2), numbers(1))
    with pytest.raises(RuntimeError, match="here") as caught:
        trainer.test(module, numbers(1))
    assert not any("Trainer.fit was at" in note for note in getattr(caught.value, "__notes__", ()))


def test_steps_of_validation_are_counted_from_behind_the_sanity_check():
    class Stepping(Adaptive):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("v", float(batch_idx), on_step=True, on_epoch=False)

    rows = Rows()
    make_trainer(logger=rows, num_sanity_val_steps=2, log_every_n_steps=0).fit(Stepping(), numbers(1), numbers(3))
    assert [step for step, row in rows.rows if "v" in row] == [0, 1, 2]


def test_a_validation_between_two_steps_has_the_row_of_the_next():
    class Logging(Adaptive):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("v", 1.0)

    rows = Rows()
    options = {"logger": rows, "log_every_n_steps": 0, "accumulate_grad_batches": 4, "val_check_interval": 5}
    make_trainer(**options).fit(Logging(), numbers(15), numbers(1))
    assert [step for step, row in rows.rows if "v" in row] == [1, 2, 3]  # batches 4 and 9 are in a window, 14 ends one


@pytest.mark.parametrize("name", ["training", "validating", "testing", "predicting", "sanity_checking"])
def test_the_stage_can_be_set(name):
    trainer = make_trainer()
    setattr(trainer, name, True)
    others = {"training", "validating", "testing", "predicting", "sanity_checking"} - {name}
    assert getattr(trainer, name)
    assert not any(getattr(trainer, other) for other in others)
    setattr(trainer, others.pop(), False)
    assert getattr(trainer, name)
    setattr(trainer, name, False)
    assert trainer.state.stage is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copy_of_a_trainer_that_has_run_can_run(copied):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Adaptive(), numbers(3), numbers(1))
    again = copied(trainer)

    again.fit(Adaptive(), numbers(3), numbers(1))

    assert again is not trainer
    assert again.global_step == trainer.global_step == 3
