from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module

import pytest
from small import Net, make_trainer, numbers
from torch import nn

import fulmen as L
from fulmen.compat import argparse, bases
from fulmen.compat.finder import Finder
from fulmen.compat.names import ROOTS
from fulmen.demos import BoringModel

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

pytestmark = pytest.mark.filterwarnings("ignore:.*(today|batch; for):UserWarning")


@pytest.fixture(autouse=True)
def reached_by_an_old_name():
    argparse.complete(L.Trainer)
    bases.complete()


def trainer(line: str, **kwargs: object) -> L.Trainer:
    parser = ArgumentParser()
    parser.add_argument("--data", default="here")
    parser = L.Trainer.add_argparse_args(parser)
    return L.Trainer.from_argparse_args(parser.parse_args(line.split()), **{**QUIET, **kwargs})


def test_options_become_arguments():
    made = trainer(
        "--max_epochs 3 --limit_train_batches 0.5 --limit_val_batches 4 --gradient_clip_val 0.1 --data there"
    )

    assert (made.max_epochs, made.limit_train_batches, made.limit_val_batches) == (3, 0.5, 4)
    assert made.gradient_clip_val == 0.1


def test_switches_need_no_value():
    assert trainer("--fast_dev_run").fast_dev_run is True
    assert trainer("--fast_dev_run 3").fast_dev_run == 3
    assert trainer("--max_epochs 1 --detect_anomaly True").options.detect_anomaly is True


def test_old_options_are_understood():
    made = trainer("--max_nb_epochs 2 --gpus 0 --accumulate_grad_batches 2")

    assert (made.max_epochs, made.accumulate_grad_batches, made.strategy.root_device.type) == (2, 2, "cpu")


def test_without_gpus_an_old_command_line_meant_the_cpu():
    assert trainer("--max_epochs 1").strategy.root_device.type == "cpu"


def test_keywords_go_first():
    assert trainer("--max_epochs 3", max_epochs=5).max_epochs == 5


def test_an_option_of_the_programs_own_replaces_one_of_the_trainers():
    parser = L.Trainer.add_argparse_args(ArgumentParser())
    parser.add_argument("--gpus", default="mine")

    assert parser.parse_args([]).gpus == "mine"


def test_a_parser_does_for_its_namespace(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--max_epochs", "7"])
    parser = L.Trainer.add_argparse_args(ArgumentParser(), use_argument_group=False)

    assert L.Trainer.from_argparse_args(parser, **QUIET).max_epochs == 7


def test_the_namespace_may_hold_more_and_less():
    assert L.Trainer.from_argparse_args(Namespace(max_epochs=4, learning_rate=0.1), **QUIET).max_epochs == 4


def test_default_attributes_are_the_arguments():
    attributes = L.Trainer.default_attributes()

    assert attributes["max_steps"] == -1
    assert {"gpus", "max_epochs", "checkpoint_callback"} <= set(attributes)
    assert "gpus" in L.Trainer.get_deprecated_arg_names()


def test_a_subclass_brings_its_own_arguments():
    class Mine(L.Trainer):
        def __init__(self, colour: str = "red", **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.colour = colour

    parser = Mine.add_argparse_args(ArgumentParser())
    made = Mine.from_argparse_args(parser.parse_args(["--colour", "blue", "--max_epochs", "2"]), **QUIET)

    assert (made.colour, made.max_epochs) == ("blue", 2)


def test_a_datamodule_from_the_command_line():
    class Data(L.LightningDataModule):
        def __init__(self, data_dir: str, batch_size: int = 32, shuffle: bool = False) -> None:
            super().__init__()
            self.given = (data_dir, batch_size, shuffle)

    parser = Data.add_argparse_args(ArgumentParser())
    made = Data.from_argparse_args(parser.parse_args(["--data_dir", "7", "--batch_size", "8", "--shuffle"]))

    assert made.given == ("7", 8, True)


def test_a_module_may_ask_its_base_for_the_items_of_the_bar():
    class Plain(L.LightningModule):
        def get_progress_bar_dict(self):
            items = super().get_progress_bar_dict()
            items.pop("v_num", None)
            return {**items, "mine": 1}

    model = Plain()
    model.layer = nn.Linear(1, 1)

    assert model.get_progress_bar_dict() == {"mine": 1}


def test_where_a_fit_begins_may_be_assigned():
    class Notes(Net):
        def on_train_epoch_start(self):
            self.begun = [*getattr(self, "begun", ()), (self.current_epoch, self.global_step)]

    module, trainer = Notes(), make_trainer(max_epochs=4)
    trainer.current_epoch, trainer.global_step = 2, 10
    assert make_trainer().global_step == 0  # what has not run yet shares its counters with no other
    trainer.fit(module, numbers(3))

    assert module.begun == [(2, 10), (3, 13)]
    assert trainer.global_step == 16


def test_fit_returned_1_until_1_3(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ROOTS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert trainer("--fast_dev_run").fit(BoringModel()) is None

    import_module("pytorch_lightning.callbacks")
    assert trainer("--fast_dev_run").fit(BoringModel()) == 1

    import_module("pytorch_lightning.callbacks.timer")
    assert trainer("--fast_dev_run").fit(BoringModel()) is None
