"""Lines of text."""

from __future__ import annotations

import re

from callbacks.small import Scored, fit

from fulmen.callbacks import PlainProgressBar
from fulmen.callbacks.progress import progress_bar


class Shown(Scored):
    def training_step(self, batch, batch_idx):
        self.log("shown", 0.25, prog_bar=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val", 1.0, prog_bar=True)


def lines(capsys) -> list[str]:
    return [re.sub(r"\d+\.\d s", "T s", line) for line in capsys.readouterr().out.splitlines()]


def test_one_line_for_each_epoch_with_all_its_metrics(capsys):
    fit(Shown([1.0] * 9), PlainProgressBar(), max_epochs=2, enable_progress_bar=True, num_sanity_val_steps=2)

    assert [re.sub(r"(shown=0.250|val=1.000)", "M", line) for line in lines(capsys)] == [
        "Epoch 0: 4 of 4 batches in T s, M, M",
        "Epoch 1: 4 of 4 batches in T s, M, M",
    ]


def test_one_line_for_each_evaluation(capsys):
    model = Shown([1.0] * 9)
    trainer = fit(model, PlainProgressBar(), max_epochs=1, enable_progress_bar=True)
    capsys.readouterr()
    trainer.validate(model, verbose=False)
    trainer.test(model, verbose=False)
    trainer.predict(model)

    assert lines(capsys) == [
        "Validation: 4 of 4 batches in T s",
        "Testing: 4 of 4 batches in T s",
        "Predicting: 4 of 4 batches in T s",
    ]


def test_a_long_epoch_says_where_it_is_every_ten_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_bar, "perf_counter", lambda: now[0])
    monkeypatch.setattr("fulmen.callbacks.progress.plain_progress.perf_counter", lambda: now[0])

    class Slow(Shown):
        def training_step(self, batch, batch_idx):
            now[0] += 4.0
            return super().training_step(batch, batch_idx)

    fit(Slow([1.0]), PlainProgressBar(), max_epochs=1, limit_val_batches=0, enable_progress_bar=True)

    assert capsys.readouterr().out.splitlines() == [
        "Epoch 0: 3 of 4 batches in 12.0 s, shown=0.250",
        "Epoch 0: 4 of 4 batches in 16.0 s, shown=0.250",
    ]
