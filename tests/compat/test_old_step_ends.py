"""What the output of a step went through."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from small import Net, Validated, make_trainer, numbers

from fulmen.callbacks import Callback

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fit(module, batches=4, **options):
    trainer = make_trainer(**options)
    trainer.fit(module, numbers(batches), numbers(3))
    return trainer


class Stepped(Validated):
    def training_step_end(self, output):
        return {"loss": output["loss"] * 10}

    def training_step(self, batch, batch_idx):
        return {"loss": self(batch).mean()}

    def validation_step_end(self, output):
        self.log("val", output + 1)
        return output + 1

    def test_step_end(self, output):
        self.log("test", output + 2)

    def validation_epoch_end(self, outputs):
        return {"sum": sum(outputs)}


def test_step_ends_get_and_change_the_output_of_their_step():
    class Seen(Callback):
        losses = ()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses = (*self.losses, outputs["loss"].item())

    seen = Seen()
    trainer = fit(Stepped(), callbacks=[seen])
    results = trainer.test(trainer.lightning_module, numbers(3), verbose=False)

    assert seen.losses == (0.0, 20.0, 40.0, 60.0)
    assert results == [{"test": 4.0}]


def test_a_step_ends_return_is_what_the_epoch_end_gets():
    trainer = fit(Stepped())

    assert trainer.callback_metrics["sum"].item() == 9.0
    assert trainer.callback_metrics["val"].item() == 3.0


def test_training_end_is_the_oldest_name_of_training_step_end():
    class Oldest(Net):
        def training_end(self, output):
            return {"loss": output, "log": {"both": output}}

    assert fit(Oldest()).callback_metrics["both"].item() == 6.0


def test_the_module_is_as_before_behind_a_run():
    module = Stepped()
    before = set(module.__dict__)
    fit(module)

    assert {name for name in set(module.__dict__) - before if "step" in name or "configure" in name} == set()


def test_a_copy_and_a_pickle_taken_within_a_run_are_independent():
    class Copied(Callback):
        def on_validation_end(self, trainer, pl_module):
            self.copies = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]

    copied = Copied()
    module = Stepped()
    fit(module, callbacks=[copied])
    with torch.no_grad():
        module.layer.weight.zero_()

    for one in copied.copies:
        assert one.training_step(torch.ones(1, 2), 0)["loss"].item() == 20.0


def test_a_step_that_was_set_on_the_instance_is_there_again_behind_the_run():
    module = Stepped()

    def own(batch, batch_idx):
        return {"loss": module(batch).mean()}

    module.training_step = own
    fit(module)

    assert module.training_step is own
