"""EarlyStopping."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from callbacks.small import QUIET, Scored, fit

import fulmen as L
from fulmen.callbacks import EarlyStopping
from fulmen.callbacks.early_stopping import EarlyStoppingReason
from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore:Validation gave")  # what is not finite is scored on purpose


def epochs(scores: list[float], *, train: bool = False, trainer: dict | None = None, **options) -> tuple:
    """Epochs that ran, and the callback."""
    stopping = EarlyStopping("score", **options)
    ran = fit(Scored(scores + [scores[-1]] * 30, train), stopping, **{"max_epochs": 8, **(trainer or {})})
    return ran.current_epoch, stopping


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        ([1.0], {"patience": 2}, 3),
        ([1.0], {"patience": 0}, 2),
        ([3.0, 2.0, 1.0, 1.0], {"patience": 2}, 5),
        ([1.0, 2.0, 3.0, 3.0], {"patience": 2, "mode": "max"}, 5),
        ([1.0, 0.9], {"patience": 2, "min_delta": 0.1}, 3),  # a change of min_delta is not enough
        ([1.0, 0.8, 0.6, 0.4], {"patience": 2, "min_delta": 0.1}, 6),
        ([1.0, 0.5, 0.1], {"stopping_threshold": 0.2}, 3),
        ([1.0, 0.2, 0.1], {"stopping_threshold": 0.2}, 3),
        ([1.0, 5.0], {"divergence_threshold": 4.0}, 2),
        ([1.0, -5.0], {"divergence_threshold": -4.0, "mode": "max"}, 2),
        ([1.0, math.nan], {}, 2),
        ([1.0, math.inf], {}, 2),
        ([1.0, math.nan], {"check_finite": False, "patience": 2}, 3),
    ],
)
def test_training_ends_when_the_metric_says_so(scores, options, expected):
    assert epochs(scores, **options)[0] == expected


@pytest.mark.parametrize(
    ("scores", "options", "reason", "said"),
    [
        ([1.0], {"patience": 1}, "PATIENCE_EXHAUSTED", "without a new best"),
        ([1.0, math.nan], {}, "NON_FINITE_METRIC", "score = nan is not finite"),
        ([0.1], {"stopping_threshold": 0.2}, "STOPPING_THRESHOLD", "score = 0.1 is better than stopping_threshold=0.2"),
        ([5.0], {"divergence_threshold": 4.0}, "DIVERGENCE_THRESHOLD", "score = 5 is worse than"),
    ],
)
def test_the_reason_is_kept(scores, options, reason, said):
    _, stopping = epochs(scores, **options)

    assert stopping.stopping_reason is EarlyStoppingReason[reason]
    assert said in stopping.stopping_reason_message


def test_a_run_that_was_not_stopped_has_no_reason():
    _, stopping = epochs([8.0 - i for i in range(8)])

    assert stopping.stopping_reason is EarlyStoppingReason.NOT_STOPPED
    assert stopping.stopping_reason_message is None
    assert stopping.stopped_epoch == 0


def test_each_validation_is_a_check_where_an_epoch_has_several():
    ran, stopping = epochs([1.0], patience=3, trainer={"val_check_interval": 0.5})

    assert ran == 2
    assert stopping.wait_count == 3


def test_epochs_without_validation_do_not_count():
    ran, _ = epochs([1.0], patience=2, trainer={"check_val_every_n_epoch": 2})

    assert ran == 6


def test_a_training_metric_can_be_monitored():
    assert epochs([1.0], train=True, patience=2)[0] == 3
    assert epochs([1.0], train=True, patience=2, trainer={"limit_val_batches": 0, "val_check_interval": 2})[0] == 3


def test_check_on_train_epoch_end_overrides_the_choice():
    ran, _ = epochs([1.0], patience=2, check_on_train_epoch_end=True, trainer={"val_check_interval": 0.5})

    assert ran == 3


def test_min_epochs_are_trained():
    assert epochs([1.0], patience=1, trainer={"min_epochs": 4})[0] == 4


def test_the_sanity_check_and_other_methods_are_not_checks():
    stopping = EarlyStopping("score", patience=1, check_on_train_epoch_end=False)
    model = Scored([1.0] * 20)
    trainer = fit(model, stopping, max_epochs=1, num_sanity_val_steps=1)
    trainer.validate(model)

    assert stopping.wait_count == 0


def test_fast_dev_run_checks_nothing():
    stopping = EarlyStopping("no such metric")
    fit(Scored([1.0] * 3), stopping, fast_dev_run=True, max_epochs=None)

    assert stopping.wait_count == 0


def test_a_missing_metric_is_an_error_that_names_those_there():
    with pytest.raises(RuntimeError, match=r"'scora'.* Did you mean 'score'\? Metrics available: 'score'"):
        fit(Scored([1.0] * 9), EarlyStopping("scora"))


def test_a_missing_metric_is_a_warning_if_not_strict():
    with pytest.warns(RuntimeWarning, match="'other'"):
        trainer = fit(Scored([1.0] * 9), EarlyStopping("other", strict=False))

    assert trainer.current_epoch == 5


def test_messages_come_when_asked_for(caplog):
    with caplog.at_level(logging.INFO, logger="fulmen"):
        epochs([1.0, 0.5], patience=1)
        assert not [r for r in caplog.records if "score" in r.getMessage()]
        epochs([1.0, 0.5], patience=1, verbose=True)
    said = [r.getMessage() for r in caplog.records if "score" in r.getMessage()]

    assert [text.split(" (")[0] for text in said] == [
        "score = 1 is a new best",
        "score = 0.5 is a new best",
        "Training stops: score = 0.5 is check 1 without a new best",
    ]


def test_state_goes_on_where_it_was(tmp_path):
    model = Scored([1.0] * 9)
    fit(model, EarlyStopping("score", patience=3), max_epochs=3).save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][
        "EarlyStopping{'monitor': 'score', 'mode': 'min'}"
    ]
    assert {k: state[k] for k in ("wait_count", "stopped_epoch", "best_score", "patience")} == {
        "wait_count": 2, "stopped_epoch": 0, "best_score": torch.tensor(1.0), "patience": 3,
    }  # fmt: skip

    resumed = EarlyStopping("score", patience=3)
    trainer = L.Trainer(callbacks=[resumed], **{**QUIET, "max_epochs": 9})
    trainer.fit(model, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.current_epoch == 4
    assert resumed.wait_count == 3


def test_state_of_older_programs_loads():
    stopping = EarlyStopping("a")
    stopping.load_state_dict({"wait_count": 2, "stopped_epoch": 3, "best_score": torch.tensor(1.0), "patience": 7})

    assert (stopping.wait_count, stopping.stopped_epoch, stopping.patience) == (2, 3, 7)
    assert stopping.stopping_reason is EarlyStoppingReason.NOT_STOPPED


def test_wrong_arguments():
    with pytest.raises(MisconfigurationException, match=r"mode='maxx' must be .* Did you mean 'max'"):
        EarlyStopping("a", mode="maxx")
    with pytest.raises(TypeError, match="monitor=None"):
        EarlyStopping(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="monitor"):
        EarlyStopping()  # type: ignore[call-arg]
