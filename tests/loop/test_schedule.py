"""When training steps, when it validates, when it ends: each run written as a line.

t a batch, T a batch with a step, v a validation, | the end of an epoch. The lines of sized loaders are those of the
runs that Lightning 2.6.6 makes of the same arguments.
"""

from __future__ import annotations

from typing import Any

import pytest
from small import Net, Numbers, Stream, make_trainer, numbers
from torch.utils.data import DataLoader

import fulmen as L


class Written(Net):
    def __init__(self) -> None:
        super().__init__()
        self.line = ""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.line += "t"
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *args: Any) -> None:
        stepped = self.trainer.global_step > self.line.count("T")
        self.line = self.line[:-1] + "T" if stepped else self.line

    def on_validation_epoch_start(self) -> None:
        self.line += "v"

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def on_train_epoch_end(self) -> None:
        self.line += "|"


class Stop(L.Callback):
    """Asks for the end after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


def line(train: Any = None, stop: int | None = None, **options: Any) -> str:
    module = Written()
    callbacks = [] if stop is None else [Stop(stop)]
    trainer = make_trainer(**{"max_epochs": 2, "callbacks": callbacks, **options})
    trainer.fit(module, numbers(6) if train is None else train, numbers(1))
    assert trainer.current_epoch == module.line.count("|")
    return module.line


def options(words: str) -> dict[str, Any]:
    """ "acc=2 vci=0.5": the arguments in short."""
    short = {
        "acc": "accumulate_grad_batches", "vci": "val_check_interval", "every": "check_val_every_n_epoch",
        "limit": "limit_train_batches", "steps": "max_steps", "epochs": "max_epochs",
    }  # fmt: skip
    pairs = (word.split("=") for word in words.split())
    return {short.get(name, name): None if value == "None" else eval(value) for name, value in pairs}


@pytest.mark.filterwarnings("ignore:accumulate_grad_batches=7 is more than the 6 batches")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "TTTTTTv|TTTTTTv|"),
        ("vci=4", "TTTTvTT|TTTTvTT|"),
        ("vci=0.4", "TTvTTvTTv|TTvTTvTTv|"),
        ("vci=0.01", "TvTvTvTvTvTv|TvTvTvTvTvTv|"),
        ("vci=0.99", "TTTTTvT|TTTTTvT|"),
        ("vci=3 limit=4", "TTTvT|TTTvT|"),
        ("vci=0.5 limit=0.7", "TTvTTv|TTvTTv|"),
        ("acc=2 vci=3", "tTtvTtTv|tTtvTtTv|"),
        ("acc=3 vci=2 steps=2", "ttvTtvtTv|"),
        ("acc=2 vci=2 steps=5", "tTvtTvtTv|tTvtTv|"),
        ("acc=4", "tttTtTv|tttTtTv|"),
        ("acc=7 steps=2", "tttttTv|tttttTv|"),
        ("steps=4", "TTTT|"),
        ("steps=4 vci=4", "TTTTv|"),
        ("steps=6", "TTTTTTv|"),
        ("steps=12 every=2", "TTTTTT|TTTTTTv|"),
        ("steps=7 epochs=-1", "TTTTTTv|T|"),
        ("every=2 vci=0.5", "TTTTTT|TTTvTTTv|"),
        ("every=3 epochs=4", "TTTTTT|TTTTTT|TTTTTTv|TTTTTT|"),
        ("every=None vci=4 epochs=3", "TTTTvTT|TTvTTTTv|TTTTvTT|"),
        ("every=None vci=7 epochs=3", "TTTTTT|TvTTTTT|TTvTTTT|"),
        ("every=None vci=4 acc=4", "tttTvtT|ttvtTtTv|"),
        ("every=None vci=13 epochs=3", "TTTTTT|TTTTTT|TvTTTTT|"),
        ("every=None vci=3 limit=4 epochs=3", "TTTvT|TTvTT|TvTTTv|"),
        ("every=None", "TTTTTTv|TTTTTTv|"),
        ("fast_dev_run=3", "TTTv|"),
        ("fast_dev_run=3 acc=2", "tTTv|"),
        ("limit_val_batches=0", "TTTTTT|TTTTTT|"),
        ("overfit_batches=2", "TTv|TTv|"),
        ("min_steps=30", "TTTTTTv|TTTTTTv|"),
    ],
)
def test_steps_and_validations(words, expected):
    assert line(**options(words)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "TTv|"),
        ("acc=4", "tttTtTv|"),
        ("min_epochs=1", "TTTTTTv|"),
        ("min_steps=3", "TTTTTTv|"),
        ("min_epochs=0 min_steps=3", "TTTv|"),
        ("min_epochs=2 epochs=3", "TTTTTTv|TTTTTTv|"),
        ("min_steps=8 epochs=3", "TTTTTTv|TTv|"),
        ("min_steps=14 min_epochs=1 epochs=4", "TTTTTTv|TTTTTTv|TTv|"),
        ("every=2", "TT|"),
    ],
)
def test_being_asked_to_stop_after_two_steps(words, expected):
    assert line(stop=2, **options(words)) == expected


class Told(Stream):
    def __len__(self) -> int:
        return self.length


@pytest.mark.parametrize("kind", [Stream, Told])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "TTTTTv|TTTTTv|"),
        ("acc=2", "tTtTTv|tTtTTv|"),
        ("vci=2", "TTvTTvT|TTvTTvT|"),
        ("every=None vci=7", "TTTTT|TTvTTT|"),
        ("limit=3", "TTTv|TTTv|"),
        ("steps=7", "TTTTTv|TT|"),
    ],
)
def test_streams_with_and_without_a_length(kind, words, expected):
    assert line(DataLoader(kind(5)), **options(words)) == expected


@pytest.mark.parametrize(
    ("words", "data", "message"),
    [
        ("vci=5 limit=4", Numbers(6), "val_check_interval=5 is more than the 4 batches"),
        ("vci=0.5", Stream(6), "val_check_interval=0.5 is a share of an epoch whose length is not known"),
        ("overfit_batches=0.1", Numbers(6), "overfit_batches=0.1|limit_train_batches=0.1"),
    ],
)
def test_what_cannot_be_is_told_before_a_batch_is_trained_on(words, data, message):
    module = Written()
    with pytest.raises(ValueError, match=message):
        make_trainer(**options(words)).fit(module, DataLoader(data), numbers(1))
    assert module.line == ""
