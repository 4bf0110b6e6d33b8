from __future__ import annotations

import pytest

from fulmen.states import RunningStage, TrainerFn, TrainerState, TrainerStatus


def test_stages_read_as_strings():
    assert RunningStage.VALIDATING == "validate"
    assert TrainerFn.FITTING == "FIT"
    assert f"{TrainerFn.TESTING}" == "test"
    assert str(TrainerFn.TESTING) == "TrainerFn.TESTING"
    assert {RunningStage.TRAINING: 1}["train"] == 1


def test_which_stages_evaluate():
    assert [stage.value for stage in RunningStage if stage.evaluating] == ["sanity_check", "validate", "test"]
    assert [stage.dataloader_prefix for stage in RunningStage] == ["train", "val", "val", "test", "predict"]


def test_a_state_knows_whether_it_has_ended():
    assert not TrainerState().finished
    assert TrainerState(TrainerStatus.INTERRUPTED).stopped
    assert TrainerState(TrainerStatus.FINISHED).finished


def test_members_are_found_by_name_and_value_in_any_case():
    assert RunningStage.from_str("Sanity-Check") is RunningStage.SANITY_CHECKING
    assert RunningStage.try_from_str("other") is None
    with pytest.raises(ValueError, match=r"'tset' must be one of .*Did you mean 'test'\?"):
        RunningStage.from_str("tset")
