"""Progress bars of one's own, from the days when `ProgressBar` drew with tqdm."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from compat.trainers import QUIET, SMALL

import fulmen as L
from fulmen.callbacks import ProgressBar, TQDMProgressBar
from fulmen.compat import bars, bases
from fulmen.demos import BoringModel

pytest.importorskip("tqdm")


@pytest.fixture(autouse=True)
def then():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bars.complete()
        yield


def fit(bar: Any) -> None:
    L.Trainer(**QUIET | SMALL | {"enable_progress_bar": True}, callbacks=[bar]).fit(BoringModel())


def test_a_bar_that_makes_bars_of_tqdm_or_says_nothing_of_drawing_is_one_of_tqdm(capsys):
    class Described(ProgressBar):
        def init_train_tqdm(self):
            bar = super().init_train_tqdm()
            bar.set_description("mine")
            made.append(bar)
            return bar

    class Worded(ProgressBar):
        def __init__(self):
            super().__init__(refresh_rate=1, process_position=2)

        def get_metrics(self, trainer, pl_module):
            made.append("asked")
            return super().get_metrics(trainer, pl_module)

    made: list[Any] = []
    fit(Described())
    fit(Worded())

    assert (made[0].n, made[0].total) == (2, 2)
    assert made[-1] == "asked"
    assert Worded().process_position == 2
    assert type(ProgressBar(refresh_rate=3)) is TQDMProgressBar


def test_a_bar_that_draws_by_itself_counts_its_batches():
    class Percent(ProgressBar):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs):
            super().on_train_batch_end(trainer, pl_module, outputs)
            self.seen.append((self.train_batch_idx, self.total_train_batches))

    class Told(Percent):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
            ProgressBar.on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            self.seen.append((self.train_batch_idx, self.total_train_batches))

    for bar in (Percent(), Told()):
        fit(bar)

        assert not isinstance(bar, TQDMProgressBar)
        assert bar.seen == [(1, 2), (2, 2)]


def test_the_bar_of_training_had_another_name_and_may_be_set():
    class Described(TQDMProgressBar):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            made.append(self.init_train_tqdm())
            self.main_progress_bar = made[0]

        def on_train_end(self, trainer, pl_module):
            seen.extend([self.train_progress_bar, self.train_batch_idx])
            super().on_train_end(trainer, pl_module)

    made: list[Any] = []
    seen: list[Any] = []
    bars.complete(TQDMProgressBar)
    fit(Described())

    assert seen == [made[0], 2]
    assert made[0].n == 2


def test_a_bar_may_leave_out_what_the_module_says():
    class Says(BoringModel):
        def get_progress_bar_dict(self):
            return {"v_num": 1, "own": 7}

    class Less(TQDMProgressBar):
        def get_metrics(self, trainer, pl_module):
            found.append({k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"})
            return found[-1]

    found: list[Any] = []
    L.Trainer(**QUIET | SMALL | {"enable_progress_bar": True}, callbacks=[Less()]).fit(Says())

    assert found[-1] == {"own": 7}


def test_the_last_loss_is_among_what_a_bar_shows_for_whom_it_asks():
    class Constant(BoringModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)["loss"] * 0 + 0.0625 * (batch_idx + 1)

    class Asking(TQDMProgressBar):
        def on_train_batch_end(self, trainer, pl_module, *args):
            shown = self.get_metrics(trainer, pl_module)
            asked.append((shown["loss"], "loss" in shown, trainer.progress_bar_dict["loss"]))
            asked.append(bases.get_progress_bar_dict(pl_module))

    asked: list[Any] = []
    options = {"enable_progress_bar": True, "accumulate_grad_batches": 2}
    L.Trainer(**QUIET | SMALL | options, callbacks=[Asking()]).fit(Constant())

    assert asked == [("0.0625", False, "0.0625"), {"loss": "0.0625"}, ("0.125", False, "0.125"), {"loss": "0.125"}]
