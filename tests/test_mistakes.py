"""Mistakes of those who begin: each is named, with the way out, before training where it can be known then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, Validated, make_trainer, numbers
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import fulmen as L
from fulmen import callbacks


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return numbers(2)


def fit(*loaders: Any, callback: Any = None, data: Any = None, **methods: Any) -> L.Trainer:
    module = type("Model", (Validated if len(loaders) > 1 else Net,), methods)()
    module.automatic_optimization = "toggles" not in methods
    trainer = make_trainer(callbacks=callback)
    first = () if data else (numbers(2),)
    trainer.fit(module, *(loaders or first), datamodule=data)
    return trainer


def configured(form: Any) -> Any:
    def configure_optimizers(self: Any) -> Any:
        optimizer = SGD(self.parameters(), 0.1)
        return form(optimizer, StepLR(optimizer, 1))

    return fit(configure_optimizers=configure_optimizers)


def in_step(call: Any, **methods: Any) -> Any:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        call(self)
        return self(batch).mean()

    return fit(training_step=training_step, **methods)


FORM = r"configure_optimizers returned "
MISTAKES = {
    "epochs=": (lambda: L.Trainer(epochs=3), TypeError, "Did you mean 'max_epochs'"),
    "early_stopping=": (lambda: L.Trainer(early_stopping=True), TypeError, r"mean callbacks=\[EarlyStopping\(...\)\]"),
    "a datamodule twice": (lambda: fit(Data(), data=Data()), ValueError, "Both datamodule and dataloaders"),
    "a datamodule's class": (lambda: fit(data=Data), TypeError, r"pass an instance: Data\(...\)"),
    "the loader's class": (lambda: fit(DataLoader), TypeError, "Pass an instance, not the class"),
    "a datamodule as a loader": (lambda: fit(numbers(1), Data()), TypeError, "given alone: datamodule="),
    "no data": (lambda: make_trainer().validate(Validated()), ValueError, r"validate\(..., dataloaders=...\)"),
    "a list": (lambda: configured(lambda o, s: [o, s]), ValueError, FORM + r"\[SGD, StepLR\], which is not a valid"),
    "two": (lambda: configured(lambda o, s: {"optimizer": [o, o]}), ValueError, FORM + r"\[SGD, SGD\], which is not"),
    "a class": (lambda: configured(lambda o, s: SGD), ValueError, FORM + "the class SGD, which"),
    "a scheduler's class": (
        lambda: configured(lambda o, s: {"optimizer": o, "lr_scheduler": StepLR}),
        ValueError,
        FORM + "the class StepLR as a scheduler",
    ),
    "an index": (lambda: in_step(lambda m: m.toggle_optimizer(0), toggles=1), TypeError, r"one of self.optimizers\(\)"),
    "no dict": (lambda: in_step(lambda m: m.log_dict("a")), TypeError, r"self.log_dict\('a'\): it takes a dict"),
    "a value's class": (lambda: in_step(lambda m: m.log("a", float)), TypeError, "a class cannot be logged"),
    "hparams": (lambda: Net().hparams.lr, AttributeError, r"nothing: call save_hyperparameters\(\) in __init__"),
    "patience": (lambda: callbacks.EarlyStopping("a", patience="3"), TypeError, "patience='3' must be a number of at"),
    "min_delta": (lambda: callbacks.EarlyStopping("a", min_delta="x"), TypeError, "min_delta='x' must be a number"),
    "every_n": (lambda: callbacks.ModelCheckpoint(every_n_epochs=0.5), ValueError, "every_n_epochs=0.5 must be an int"),
    "refresh_rate": (lambda: callbacks.TQDMProgressBar("a"), TypeError, "refresh_rate='a' must be a number"),
    "max_depth": (lambda: callbacks.ModelSummary("full"), ValueError, "max_depth='full' must be"),
    "no function": (lambda: callbacks.LambdaCallback(on_fit_end=3), TypeError, r"\(on_fit_end=3\) must be a function"),
    "a callback's name": (lambda: callbacks.ModelCheckPoint, AttributeError, "mean 'ModelCheckpoint'"),
    "a logger's name": (lambda: L.loggers.TensorboardLogger, AttributeError, "mean 'TensorBoardLogger'"),
    "an empty path": (lambda: Net.load_from_checkpoint(""), FileNotFoundError, "as best_model_path is before"),
    "'lst'": (lambda: make_trainer().predict(Net(), numbers(1), ckpt_path="lst"), FileNotFoundError, "mean 'last'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_named(mistake):
    make, kind, said = MISTAKES[mistake]
    with pytest.raises(kind, match=said):
        make()


def test_a_file_whose_name_comes_near_is_named(tmp_path):
    fit().save_checkpoint(tmp_path / "epoch=1.ckpt")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'epoch=1\.ckpt'"):
        Net.load_from_checkpoint(tmp_path / "epoch=2.ckpt")


def test_backward_by_hand_is_told_from_others():
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = self(batch).square().mean()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="a second time") as raised:
        fit(training_step=training_step)
    notes = getattr(raised.value, "__notes__", ["The trainer calls backward() itself"])  # Python 3.10 has none
    assert "The trainer calls backward() itself" in notes[0]


def test_a_datamodule_s_setup_may_leave_stage_out():
    class Short(Data):
        def setup(self) -> None:
            self.ready = True

    data = Short()
    with pytest.warns(UserWarning, match=r"Short.setup\(\) is setup\(stage\) today"):
        fit(data=data)
    assert data.ready


def test_a_lambda_in_a_step_is_the_same_reduction_each_time():
    def log(module: Any) -> None:
        module.log("a", 3.0, on_epoch=True, on_step=False, reduce_fx=lambda values: torch.as_tensor(values).max())

    assert in_step(log).callback_metrics["a"] == 3.0


def test_loggers_may_come_out_of_a_generator(tmp_path):
    loggers = [L.loggers.CSVLogger(tmp_path, name=name) for name in "ab"]
    assert make_trainer(logger=(logger for logger in loggers)).loggers == loggers


def test_an_open_file_is_a_checkpoint_too(tmp_path):
    trainer = fit()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with open(tmp_path / "a.ckpt", "rb") as file:
        loaded = Net.load_from_checkpoint(file)
    assert torch.equal(loaded.layer.weight, trainer.lightning_module.layer.weight)
