"""Several optimizers under automatic optimization."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
import torch
from compat.optimizing import Two, fit
from small import Net, make_trainer
from torch.utils.data import DataLoader, TensorDataset

from fulmen.callbacks import Callback
from fulmen.compat import devices
from fulmen.compat.finder import Finder
from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def by_hand(batches, accumulate=1):
    """The same training written out."""
    first, second = torch.ones(2), torch.ones(2)
    grads = [torch.zeros(2), torch.zeros(2)]
    for index in range(batches):
        for which in (0, 1):
            grads[which] += (second if which == 0 else first).sum() / accumulate
            if (index + 1) % accumulate == 0 or index == batches - 1:
                (first if which == 0 else second).sub_(0.125 * grads[which])
                grads[which] = torch.zeros(2)
    return first, second


def test_each_optimizer_has_its_turn_with_only_its_parameters():
    module = Two()

    trainer = fit(module)

    assert module.turns == [(0, 0, True, False), (0, 1, False, True), (1, 0, True, False), (1, 1, False, True)]
    assert module.first.weight.requires_grad
    assert module.second.weight.requires_grad
    assert set(trainer.callback_metrics) == {"loss_0", "loss_1", "loss"}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_weights_are_those_of_a_loop_by_hand(accumulate):
    module = Two()

    fit(module, 5, accumulate_grad_batches=accumulate)

    first, second = by_hand(5, accumulate)
    assert torch.allclose(module.first.weight[0], first)
    assert torch.allclose(module.second.weight[0], second)


def test_a_batch_is_one_global_step():
    assert fit(Two(), 6).global_step == 6
    assert fit(Two(), 6, accumulate_grad_batches=2).global_step == 3
    assert fit(Two(), 6, max_steps=4, max_epochs=-1).global_step == 4


def test_toggling_may_be_overridden_with_the_index():
    class Toggles(Two):
        def toggle_optimizer(self, optimizer, optimizer_idx):
            self.turns.append(optimizer_idx)

        def untoggle_optimizer(self, optimizer_idx):
            self.turns.append(-optimizer_idx)

    module = Toggles()
    fit(module, 1)

    assert module.turns == [0, (0, 0, True, True), 0, 1, (0, 1, True, True), -1]


def test_frequencies_give_each_optimizer_its_batches_over_the_epochs():
    module = Two()
    module.frequencies = (2, 1)

    trainer = fit(module, 4, max_epochs=2)

    assert [index for _, index, *_ in module.turns] == [0, 0, 1, 0, 0, 1, 0, 0]
    assert trainer.global_step == 8


def test_training_epoch_end_gets_a_list_for_each_optimizer():
    class Ended(Two):
        def training_epoch_end(self, outputs):
            self.outputs = outputs

    module = Ended()
    fit(module, 3)

    assert [len(one) for one in module.outputs] == [3, 3]
    assert module.outputs[0][0]["loss"].item() == 4.0

    module = Ended()
    module.frequencies = (2, 1)
    fit(module, 3)
    assert len([one["loss"] for one in module.outputs]) == 3


def test_from_1_6_on_training_epoch_end_got_a_list_for_each_batch():
    class Ended(Two):
        def training_epoch_end(self, outputs):
            self.outputs = outputs

        def lr_scheduler_step(self, scheduler, optimizer_idx, metric):
            scheduler.step()

    module = Ended()
    fit(module, 3)
    assert [[sorted(one) for one in batch] for batch in module.outputs] == [[["log", "loss"]] * 2] * 3

    module = Ended()
    module.frequencies = (2, 1)
    fit(module, 3)
    assert [len(batch) for batch in module.outputs] == [1, 1, 1]


def test_an_optimizers_step_that_returns_none_leaves_its_weights():
    class Skips(Two):
        def training_step(self, batch, batch_idx, optimizer_idx):
            return None if optimizer_idx == 1 else super().training_step(batch, batch_idx, optimizer_idx)

    module = Skips()
    fit(module)

    assert module.second.weight.tolist() == [[1.0, 1.0]]
    assert module.first.weight.tolist() == [[0.5, 0.5]]


def test_the_last_parameter_may_have_any_name_and_star_args_get_the_index_too():
    class Named(Two):
        def training_step(self, batch, batch_nb, optimizer_i):
            return super().training_step(batch, batch_nb, optimizer_i)

    class Starred(Two):
        def training_step(self, *args):
            return super().training_step(*args)

    for kind in (Named, Starred):
        module = kind()
        fit(module, 1)
        assert [index for _, index, *_ in module.turns] == [0, 1]


def test_one_optimizer_with_an_index_gets_zero():
    class One(Net):
        def training_step(self, batch, batch_idx, optimizer_idx):
            self.index = optimizer_idx
            return self(batch).mean()

    module = One()
    assert fit(module).global_step == 2
    assert module.index == 0


def test_manual_optimization_with_an_index():
    class Manual(Two):
        automatic_optimization = False

        def training_step(self, batch, batch_idx, optimizer_idx):
            assert optimizer_idx == 0
            for optimizer in self.optimizers():
                loss = (self.first(batch) * self.second(batch)).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    assert fit(Manual(), 3).global_step == 3


def test_several_optimizers_without_an_index_are_still_an_error():
    class Without(Two):
        def training_step(self, batch, batch_idx):
            return self.first(batch).mean()

    with pytest.raises(MisconfigurationException, match="manual optimization"):
        fit(Without())


def test_the_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    def module():
        made = Two()
        made.frequencies = (2, 1)
        return made

    whole, rest = module(), module()
    fit(whole, 5, callbacks=[Saves()], max_epochs=2)
    trainer = make_trainer(max_epochs=2)
    data = DataLoader(TensorDataset(torch.ones(5, 2)), collate_fn=lambda rows: rows[0][0][None])
    trainer.fit(rest, data, ckpt_path=tmp_path / "a.ckpt")

    assert rest.turns == whole.turns[3:]
    assert torch.equal(rest.first.weight, whole.first.weight)
    assert torch.equal(rest.second.weight, whole.second.weight)


def test_each_optimizers_step_counts_where_the_module_steps_its_schedulers():
    class Later(Two):
        def lr_scheduler_step(self, scheduler, optimizer_idx, metric):
            scheduler.step()

    assert fit(Later(), 6).global_step == 12
    assert fit(Later(), 6, max_steps=4, max_epochs=-1).global_step == 4


def test_each_optimizers_step_counts_in_a_program_that_imports_what_came_with_1_6(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    import_module("pytorch_lightning.callbacks")
    assert fit(Two(), 6).global_step == 6

    import_module("pytorch_lightning.strategies")
    assert fit(Two(), 6).global_step == 12


def test_devices_instead_of_gpus_is_of_the_time_in_which_each_optimizers_step_counted(monkeypatch):
    monkeypatch.setattr(devices, "SAID", set())
    seen = []

    class Seeing(Two):
        def training_step(self, batch, batch_idx, optimizer_idx):
            seen.append(self.global_step)
            return super().training_step(batch, batch_idx, optimizer_idx)

    assert fit(Seeing(), 3, devices=1).global_step == 6
    assert seen == [0, 1, 2, 3, 4, 5]

    assert fit(Two(), 3, devices=1, gpus=0).global_step == 3
    assert fit(Two(), 3, devices=1).global_step == 3
