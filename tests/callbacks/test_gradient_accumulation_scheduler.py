"""GradientAccumulationScheduler."""

from __future__ import annotations

import pytest
from callbacks.small import Scored, fit

import fulmen as L
from fulmen.callbacks import GradientAccumulationScheduler
from fulmen.errors import MisconfigurationException


def test_the_number_of_batches_changes_at_its_epochs():
    steps = []

    class Steps(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            steps.append(trainer.global_step)

    fit(Scored([1.0] * 9), GradientAccumulationScheduler({1: 2, 3: 4}), Steps(), max_epochs=4)

    assert steps == [4, 6, 8, 9]


def test_a_fit_can_be_repeated():
    callback = GradientAccumulationScheduler({0: 2})
    trainer = fit(Scored([1.0] * 9), callback, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Scored([1.0] * 9))

    assert trainer.accumulate_grad_batches == 2


def test_questions_about_the_schedule():
    callback = GradientAccumulationScheduler({2: 4, 1: 3})

    assert [callback.get_accumulate_grad_batches(epoch) for epoch in range(4)] == [1, 3, 4, 4]
    assert callback.going_to_accumulate_grad_batches()
    assert not GradientAccumulationScheduler({4: 1}).going_to_accumulate_grad_batches()


@pytest.mark.parametrize("scheduling", [{0: 0}, {-1: 2}, {"a": 1}, {0: 1.5}])
def test_wrong_schedules(scheduling):
    with pytest.raises(MisconfigurationException, match="must be an int of at least"):
        GradientAccumulationScheduler(scheduling)


@pytest.mark.parametrize("scheduling", [{}, None, 3])
def test_a_schedule_is_needed(scheduling):
    with pytest.raises(TypeError, match="must be a dict"):
        GradientAccumulationScheduler(scheduling)


def test_two_masters_are_an_error():
    with pytest.raises(MisconfigurationException, match="accumulate_grad_batches=2"):
        fit(Scored([1.0]), GradientAccumulationScheduler({1: 4}), accumulate_grad_batches=2)


def test_manual_optimization_is_an_error():
    model = Scored([1.0])
    model.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="automatic_optimization=False"):
        fit(model, GradientAccumulationScheduler({1: 4}))
