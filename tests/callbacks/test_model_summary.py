"""The callbacks that show the model's summary."""

from __future__ import annotations

import pytest
import torch
from callbacks.small import Scored, fit

from fulmen.callbacks import ModelSummary, RichModelSummary
from fulmen.summary import summarize


def test_the_table_is_shown_when_fit_starts(caplog):
    fit(Scored([1.0]), ModelSummary(), max_epochs=1)

    assert f"\n{summarize(Scored([]))}" in caplog.messages


def test_depth_zero_shows_nothing(caplog):
    fit(Scored([1.0]), ModelSummary(max_depth=0), max_epochs=1)

    assert "Params" not in caplog.text


def test_rich_shows_the_same_numbers(capsys):
    model = Scored([1.0])
    model.example_input_array = torch.zeros(2, 32)
    fit(model, RichModelSummary(), max_epochs=1)
    said = capsys.readouterr().out

    assert "│ 0 │ layer │ Linear │     66 │ train │   256 │  [2, 32] │    [2, 2] │" in said
    assert "Trainable params: 66" in said
    assert "Total FLOPs: 256" in said


def test_summarize_can_be_overridden():
    shown = {}

    class Mine(ModelSummary):
        @staticmethod
        def summarize(summary_data, total_parameters, trainable_parameters, model_size, total_training_modes, **kwargs):
            shown.update(kwargs, data=dict(summary_data), total=total_parameters, modes=total_training_modes)

    fit(Scored([1.0]), Mine(1, colour="red"), max_epochs=1)

    assert shown == {
        "data": {" ": ["0"], "Name": ["layer"], "Type": ["Linear"], "Params": ["66  "], "Mode": ["train"]},
        "total": 66, "modes": {"train": 1, "eval": 0}, "total_flops": 0, "colour": "red",
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_an_example_runs_in_the_precision_of_the_run(precision):
    seen = []

    class Model(Scored):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model = Model([1.0])
    model.example_input_array = torch.zeros(2, 32)
    fit(model, ModelSummary(), max_epochs=1, precision=precision)

    assert seen[0] == seen[1] == (torch.float64 if precision == "64-true" else torch.bfloat16)
