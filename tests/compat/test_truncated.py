"""Sequences that are cut: truncated backpropagation through time."""

from __future__ import annotations

import pytest
import torch
from compat.optimizing import Two
from small import Net, make_trainer
from torch.utils.data import DataLoader, TensorDataset

from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Cut(Net):
    """Sums what it sees into its hidden state."""

    truncated_bptt_steps = 2

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx, hiddens):
        x, y = batch
        before = 0.0 if hiddens is None else hiddens
        assert not getattr(before, "requires_grad", False)
        hidden = before + self.layer(x).sum()
        self.seen.append((x.shape[1], float(before), hidden.item()))
        return {"loss": hidden, "hiddens": hidden, "log": {"y": y.sum()}}


def sequences(batches=1):
    return DataLoader(TensorDataset(torch.ones(batches, 5, 2), torch.ones(batches, 5)))


def test_a_sequence_is_cut_and_its_hidden_state_handed_on_detached():
    module = Cut()

    trainer = make_trainer()
    trainer.fit(module, sequences(2))

    assert [n for n, *_ in module.seen] == [2, 2, 1, 2, 2, 1]
    assert [before for _, before, _ in module.seen] == [0.0, 4.0, 8.0, 0.0, 4.0, 8.0]
    assert trainer.global_step == 2


def test_the_module_may_cut_the_batch_itself():
    class Own(Cut):
        def tbptt_split_batch(self, batch, split_size):
            x, y = batch
            return [(x[:, :split_size], y), (x[:, split_size:], y)]

    module = Own()
    make_trainer().fit(module, sequences())

    assert [n for n, *_ in module.seen] == [2, 3]


def test_the_hidden_state_comes_after_the_optimizers_index():
    class Both(Two):
        truncated_bptt_steps = 1

        def training_step(self, batch, batch_idx, optimizer_idx, hiddens):
            self.turns.append((optimizer_idx, hiddens))
            loss = (self.first(batch) * self.second(batch)).mean()
            return {"loss": loss, "hiddens": len(self.turns)}

    module = Both()
    make_trainer().fit(module, DataLoader(torch.ones(1, 2, 2)))

    assert module.turns == [(0, None), (1, 1), (0, 2), (1, 3)]


def test_parts_of_unequal_length_are_named():
    module = Cut()

    with pytest.raises(MisconfigurationException, match=r"\[4, 5\] time steps"):
        make_trainer().fit(module, DataLoader(TensorDataset(torch.ones(1, 5, 2), torch.ones(1, 4))))


def test_the_epochs_end_gets_a_list_for_each_batch_that_was_cut():
    class Ends(Cut):
        def training_epoch_end(self, outputs):
            self.losses = [[part["loss"].item() for part in parts] for parts in outputs]

    module = Ends()
    make_trainer().fit(module, sequences(2))

    assert module.losses == [[hidden for _, _, hidden in module.seen[at : at + 3]] for at in (0, 3)]
