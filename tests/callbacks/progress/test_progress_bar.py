"""What all bars share: totals, metrics, and how seldom they draw."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch
from callbacks.small import Scored, fit
from torch.utils.data import DataLoader

from fulmen.callbacks import PlainProgressBar, ProgressBar, RichProgressBar, TQDMProgressBar, progress
from fulmen.callbacks.progress import default_bar, progress_bar
from fulmen.loggers import CSVLogger


class Drawn(ProgressBar):
    """Writes down what it is told to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple] = []

    def begin_stage(self, stage, text, total):
        self.drawn.append(("begin", stage, text, total))

    def draw_stage(self, stage, seen, metrics):
        self.drawn.append(("draw", stage, seen))

    def end_stage(self, stage):
        self.drawn.append(("end", stage))


class Logged(Scored):
    """Shows its loss in the bar."""

    loaders = 1

    def training_step(self, batch, batch_idx):
        self.log("loss_value", 0.5, prog_bar=True, on_epoch=True)
        self.log("hidden", 2.0)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch, batch_idx)

    def val_dataloader(self):
        return [self.loader() for _ in range(self.loaders)] if self.loaders > 1 else self.loader()


def test_stages_begin_and_end_around_their_batches():
    bar, model = Drawn(), Logged([1.0] * 9)
    trainer = fit(model, bar, max_epochs=2, num_sanity_val_steps=1, enable_progress_bar=True)
    fitted = [entry for entry in bar.drawn if entry[0] != "draw"]
    bar.drawn.clear()
    trainer.predict(model)

    assert fitted == [
        ("begin", "sanity_check", "Sanity Checking", 1), ("end", "sanity_check"),
        ("begin", "train", "Epoch 0", 4), ("begin", "validate", "Validation", 4), ("end", "validate"),
        ("begin", "train", "Epoch 1", 4), ("begin", "validate", "Validation", 4), ("end", "validate"),
        ("end", "train"),
    ]  # fmt: skip
    assert bar.drawn[0] == ("begin", "predict", "Predicting", 4)
    assert bar.drawn[-2:] == [("draw", "predict", 4), ("end", "predict")]


def test_each_of_several_loaders_begins_anew():
    bar, model = Drawn(), Logged([1.0] * 9)
    model.loaders = 2
    fit(model, bar, max_epochs=1, enable_progress_bar=True)
    begun = [entry[1:] for entry in bar.drawn if entry[0] == "begin"]

    assert begun[1:] == [("validate", "Validation DataLoader 0", 4), ("validate", "Validation DataLoader 1", 4)]


def test_data_without_a_length_has_no_total():
    bar, model = Drawn(), Logged([1.0] * 9)
    model.train_dataloader = lambda: (torch.ones(1, 32) for _ in range(3))
    fit(model, bar, max_epochs=1, enable_progress_bar=True)

    assert bar.drawn[0] == ("begin", "train", "Epoch 0", float("inf"))
    assert bar.drawn[-2] == ("draw", "train", 3)


def test_fast_batches_are_not_drawn_one_by_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_bar, "perf_counter", lambda: now[0])

    class Clocked(Logged):
        def training_step(self, batch, batch_idx):
            now[0] += 0.001
            return super().training_step(batch, batch_idx)

    bar, model = Drawn(), Clocked([1.0])
    data = DataLoader(torch.zeros(1000, 32))
    model.train_dataloader = lambda: data
    fit(model, bar, max_epochs=1, limit_val_batches=0, enable_progress_bar=True)
    seen = [entry[2] for entry in bar.drawn if entry[0] == "draw"]

    assert len(seen) < 14  # one second: ten, and those at the ends
    assert seen[0] == 0
    assert seen[-1] == 1000


def test_a_slow_redraw_is_followed_by_a_long_pause(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_bar, "perf_counter", lambda: now[0])

    class Slow(Drawn):
        def draw_stage(self, stage, seen, metrics):
            now[0] += 0.01

    bar = Slow()
    bar._began["predict"] = 0.0
    bar.redraw()

    assert bar._due - now[0] == pytest.approx(0.5)


def test_the_hook_of_a_batch_returns_at_once():
    bar = Drawn()
    bar._due = float("inf")
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(event))
    bar.on_train_batch_end(None, None, None, None, 7)
    sys.setprofile(None)

    assert calls.count("call") == 1
    assert calls.count("c_call") <= 2  # the clock, and the profile's own end
    assert bar._seen == 8


def test_metrics_are_those_for_the_bar_and_the_version():
    class Kept(Drawn):
        kept: dict

        def on_train_end(self, trainer, pl_module):
            self.kept = self.get_metrics(trainer, pl_module)

    bar = Kept()
    logger = CSVLogger(".", version="a long version")
    fit(Logged([1.0]), bar, max_epochs=1, logger=logger, log_every_n_steps=1, enable_progress_bar=True)

    assert bar.kept == {"v_num": "sion", "loss_value_step": 0.5, "loss_value_epoch": 0.5}


def test_totals_and_descriptions():
    found = {}

    class Asks(Drawn):
        def on_validation_start(self, trainer, pl_module):
            found["sanity" if trainer.sanity_checking else "val"] = self.total_val_batches_current_dataloader
            found["all"] = self.total_val_batches
            super().on_validation_start(trainer, pl_module)

        def on_test_start(self, trainer, pl_module):
            found["test"] = self.total_test_batches_current_dataloader

        def on_train_start(self, trainer, pl_module):
            found["train"] = self.total_train_batches

    bar, model = Asks(), Logged([1.0] * 9)
    model.loaders = 2
    options = {"limit_val_batches": 3, "num_sanity_val_steps": 2, "enable_progress_bar": True}
    fit(model, bar, max_epochs=1, **options).test(model, verbose=False)

    assert found == {"sanity": 2, "train": 4, "val": 3, "all": 6, "test": 4}
    assert bar.has_dataloader_changed(1)
    assert not bar.has_dataloader_changed(1)
    bar.reset_dataloader_idx_tracker()
    assert bar.has_dataloader_changed(1)
    texts = [bar.sanity_check_description, bar.train_description, bar.validation_description, bar.test_description]
    assert texts == ["Sanity Checking", "Training", "Validation", "Testing"]


def test_a_disabled_bar_draws_nothing():
    bar = Drawn()
    bar.disable()
    fit(Logged([1.0]), bar, max_epochs=1, enable_progress_bar=True)

    assert bar.is_disabled
    assert bar.drawn == []
    bar.enable()
    assert bar.is_enabled


def test_ranks_other_than_zero_are_silent():
    class Rank:
        is_global_zero = False

    bar = PlainProgressBar()
    bar.setup(Rank(), None, "fit")

    assert bar.is_disabled


def test_an_exception_lets_go_of_the_screen():
    class Fails(Logged):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            raise RuntimeError("no")

    bar = Drawn()
    with pytest.raises(RuntimeError, match="no"):
        fit(Fails([1.0]), bar, max_epochs=1, enable_progress_bar=True)

    assert bar.drawn[-2:] == [("end", "validate"), ("end", "train")]


@pytest.mark.parametrize("kind", [PlainProgressBar, RichProgressBar, TQDMProgressBar])
def test_bars_can_be_copied_and_pickled_at_any_time(kind):
    class Copies(Logged):
        def training_step(self, batch, batch_idx):
            bar = self.trainer.progress_bar_callback
            assert copy.deepcopy(bar)._trainer is None
            pickle.dumps(bar)
            return super().training_step(batch, batch_idx)

    fit(Copies([1.0]), kind(), max_epochs=1, enable_progress_bar=True)


def test_where_there_is_no_terminal_the_bar_is_plain(monkeypatch):
    assert type(default_bar()) is PlainProgressBar
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(default_bar()) is RichProgressBar
    monkeypatch.setenv("TERM", "dumb")
    assert type(default_bar()) is PlainProgressBar


@pytest.mark.parametrize(("widgets", "kind"), [(True, TQDMProgressBar), (False, RichProgressBar)])
def test_a_notebook_gets_widgets_where_they_are_installed(monkeypatch, widgets, kind):
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(progress, "find_spec", lambda name: widgets or name != "ipywidgets")

    assert type(default_bar()) is kind


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (1.5, "1.500"), (-0.25, "-0.25"), (0.04567, "0.0457"), (123.4, "123.0"), (1e-5, "1e-05"),
     (float("nan"), "nan"), (123456.0, "1.23e+05"), (3, "3"), ("ab", "ab")],
)  # fmt: skip
def test_numbers_are_short_and_always_as_wide(value, text):
    assert progress_bar.number(value) == text
