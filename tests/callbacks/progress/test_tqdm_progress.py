"""The bars of tqdm."""

from __future__ import annotations

import re
import sys

import pytest
from callbacks.small import Scored, fit

from fulmen.callbacks import TQDMProgressBar


class Shown(Scored):
    def training_step(self, batch, batch_idx):
        self.log("shown", 0.25, prog_bar=True)
        return super().training_step(batch, batch_idx)


def drawn(capsys) -> list[str]:
    """What was drawn, without times."""
    return [
        re.sub(r" \[.*?(, shown=\S*)?\]", r"\1", text).strip() for text in re.split(r"[\r\n]", capsys.readouterr().out)
    ]


def test_every_batch_is_counted(capsys):
    fit(Shown([1.0] * 9), TQDMProgressBar(refresh_rate=2), max_epochs=2, limit_val_batches=0, enable_progress_bar=True)
    said = drawn(capsys)

    for expected in ("Epoch 0:  50%|█████     | 2/4, shown=0.250", "Epoch 1: 100%|██████████| 4/4, shown=0.250"):
        assert expected in said
    assert not any("3/4" in text for text in said)


def test_bars_of_one_s_own(capsys):
    class Mine(TQDMProgressBar):
        def init_train_tqdm(self):
            bar = super().init_train_tqdm()
            bar.bar_format = "<{desc}{n_fmt}>"
            return bar

        def get_metrics(self, trainer, pl_module):
            return {"mine": 1}

        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            self.train_progress_bar.set_description("mine")

        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            assert self.train_progress_bar.total == self.total_train_batches == 4

    fit(Shown([1.0] * 9), Mine(), max_epochs=1, enable_progress_bar=True)

    assert "<mine: 4>" in capsys.readouterr().out


def test_bars_live_as_long_as_their_stage():
    seen = []

    class Looks(TQDMProgressBar):
        def on_validation_end(self, trainer, pl_module):
            seen.append(
                (
                    trainer.sanity_checking,
                    self.val_progress_bar.total,
                    self.val_progress_bar.leave,
                    self.val_progress_bar.pos,
                )
            )
            super().on_validation_end(trainer, pl_module)

        def on_test_end(self, trainer, pl_module):
            seen.append(self.test_progress_bar.total)
            super().on_test_end(trainer, pl_module)

        def on_predict_end(self, trainer, pl_module):
            seen.append(self.predict_progress_bar.total)
            super().on_predict_end(trainer, pl_module)

    bar, model = Looks(), Shown([1.0] * 9)
    trainer = fit(model, bar, max_epochs=1, num_sanity_val_steps=1, enable_progress_bar=True)
    trainer.validate(model, verbose=False)
    trainer.test(model, verbose=False)
    trainer.predict(model)

    assert seen == [(True, 1, False, 0), (False, 4, False, -1), (False, 4, True, 0), 4, 4]
    assert bar._bars == {}


@pytest.mark.parametrize(("leave", "lines"), [(False, 1), (True, 2)])
def test_leave_keeps_the_bar_of_each_epoch(capsys, leave, lines):
    fit(Shown([1.0] * 9), TQDMProgressBar(leave=leave), max_epochs=2, limit_val_batches=0, enable_progress_bar=True)
    last = [line.split("\r")[-1] for line in capsys.readouterr().out.split("\n")]

    assert sum("4/4" in line for line in last) == lines


def test_rate_zero_is_off(capsys):
    bar = TQDMProgressBar(refresh_rate=0)
    fit(Shown([1.0] * 9), bar, max_epochs=1, enable_progress_bar=True)

    assert bar.is_disabled
    assert "Epoch" not in capsys.readouterr().out


def test_hooks_that_use_the_bar_run_on_every_rank():
    bar = TQDMProgressBar()
    bar.disable()
    bar.train_progress_bar.set_description("mine")

    assert bar.train_progress_bar.disable


def test_printing_goes_above_the_bar(capsys):
    class Prints(Shown):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                self.print("a", 1, sep="-")
            return super().training_step(batch, batch_idx)

    fit(Prints([1.0] * 9), TQDMProgressBar(), max_epochs=1, enable_progress_bar=True)

    assert "a-1" in re.split(r"[\r\n]", capsys.readouterr().out)


def test_without_tqdm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        fit(Shown([1.0] * 9), TQDMProgressBar(), max_epochs=1, enable_progress_bar=True)


def test_settings_can_be_read():
    bar = TQDMProgressBar(refresh_rate=5, process_position=1)

    assert (bar.refresh_rate, bar.process_position) == (5, 1)
    assert bar.train_progress_bar.pos == -2
    bar.train_progress_bar.close()
