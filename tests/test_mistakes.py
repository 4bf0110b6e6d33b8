"""Mistakes of those who begin: each is named, with the way out, before training where it can be known then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from small import Net, Validated, make_trainer, numbers
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import fulmen as L
from fulmen import callbacks
from fulmen.loggers import CSVLogger


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
    "a complex loss": (
        lambda: in_step(lambda m: None, forward=lambda m, b: m.layer(b) * 1j),
        ValueError,
        "loss is complex",
    ),
    "a seed in words": (lambda: L.seed_everything("abc"), ValueError, "seed='abc' must be an integer"),
    "hyperparameters of a number": (lambda: CSVLogger(".").log_hyperparams(3), TypeError, "a dict or a Namespace"),
    "a vector for a CSV file": (
        lambda: CSVLogger(".").log_metrics({"a": torch.ones(2)}),
        ValueError,
        r"'a' has the shape \(2,\); a CSV",
    ),
    "a name that is taken": (
        lambda: in_step(lambda m: setattr(m, "device", "cpu")),
        AttributeError,
        r"\.device is only read, .* give your own value another name",
    ),
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
    "no function": (lambda: fit(callback=callbacks.LambdaCallback(on_fit_end=3)), TypeError, "on_fit_end must be a"),
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


@pytest.mark.parametrize("name", ["training_step", "configure_optimizers", "train_dataloader", "on_train_start"])
def test_what_stands_where_a_method_is_expected_is_named(name):
    module = Net()
    setattr(module, name, {})
    with pytest.raises(TypeError, match=rf"Net\.{name} must be a method, but is set to a dict"):
        make_trainer().fit(module, None if name == "train_dataloader" else numbers(1))


def test_a_verb_within_another_is_refused_and_after_the_loop_it_runs():
    class Nested(Validated):
        def on_train_epoch_end(self) -> None:
            with pytest.raises(ValueError, match=r"trainer\.validate was called within another run"):
                self.trainer.validate(self, numbers(1))

        def on_fit_end(self) -> None:
            assert self.trainer.test(self, numbers(1)) == [{}]

    make_trainer().fit(Nested(), numbers(1), numbers(1))


def test_an_iterator_is_told_from_what_it_was_made_of():
    with pytest.warns(UserWarning, match="train_dataloaders is an iterator"):
        make_trainer(max_epochs=2).fit(Net(), (torch.ones(1, 2) for _ in range(2)))


def test_a_metric_that_computes_a_dict_is_named():
    class Several(torchmetrics.MeanMetric):
        def compute(self) -> Any:
            return {"a": 1.0}

    class Scored(Validated):
        def __init__(self) -> None:
            super().__init__()
            self.metric = Several()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.metric.update(batch)
            self.log("m", self.metric)

    with pytest.raises(TypeError, match=r"self.log\('m', {...}\): a nested dict cannot be logged"):
        make_trainer().validate(Scored(), numbers(1))


def test_an_example_that_forward_cannot_take_is_named():
    module = Net()
    module.example_input_array = torch.ones(1, 7)
    with pytest.raises(RuntimeError, match="forward could not take example_input_array, for the summary: mat1"):
        make_trainer(enable_model_summary=True).fit(module, numbers(1))


def test_private_names_are_not_suggested():
    with pytest.raises(AttributeError) as raised:
        make_trainer().evaluate(Net())
    assert "_evaluate" not in str(raised.value)
