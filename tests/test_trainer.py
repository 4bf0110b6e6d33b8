"""The Trainer's verbs in all call forms, and what can be read from it before, during and after a run."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from small import Net, Rows, Stream, Validated, make_trainer, numbers
from torch import nn
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, TQDMProgressBar
from fulmen.callbacks.base import Checkpoint
from fulmen.combined import CombinedLoader
from fulmen.errors import CheckpointError, MisconfigurationException
from fulmen.precision import Precision
from fulmen.states import RunningStage, TrainerFn, TrainerStatus

WRONG = MisconfigurationException


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return numbers(3)

    def val_dataloader(self) -> Any:
        return numbers(2)

    test_dataloader = predict_dataloader = val_dataloader


class Loaded(Validated):
    """Brings its own data."""

    train_dataloader = Data.train_dataloader
    val_dataloader = test_dataloader = predict_dataloader = Data.val_dataloader


class Scoring(Validated):
    """Validation logs the weight's sum as "score", so that it tells which weights were in."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", self.layer.weight.sum())

    test_step = validation_step


# ---- fit


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (Net, lambda: {"train_dataloaders": numbers(3)}),
        (Validated, lambda: {"train_dataloaders": numbers(3), "val_dataloaders": numbers(2)}),
        (Validated, lambda: {"train_dataloaders": numbers(3), "val_dataloaders": [numbers(2)]}),
        (Validated, lambda: {"datamodule": Data()}),
        (Validated, lambda: {"train_dataloaders": Data()}),
        (Loaded, dict),
        (Loaded, lambda: {"train_dataloaders": numbers(3)}),
    ],
)
def test_data_reach_fit_in_every_form(model, arguments):
    trainer = make_trainer()
    trainer.fit(model(), **arguments())
    assert (trainer.global_step, trainer.num_training_batches) == (3, 3)
    assert trainer.num_val_batches == ([] if model is Net else [2])


def test_what_is_passed_wins_over_what_the_module_brings():
    trainer = make_trainer()
    trainer.fit(Loaded(), numbers(5), numbers(1))
    assert (trainer.global_step, trainer.num_val_batches) == (5, [1])


def test_the_datamodule_wins_over_what_the_module_brings():
    class Longer(Data):
        def train_dataloader(self) -> Any:
            return numbers(4)

    trainer = make_trainer()
    trainer.fit(Loaded(), datamodule=Longer())
    assert trainer.global_step == 4


@pytest.mark.parametrize(
    ("model", "arguments", "error", "words"),
    [
        (Net(), {}, WRONG, "no data: pass fit.*train_dataloaders=.*or define train_dataloader in Net"),
        (Net(), {"datamodule": L.LightningDataModule()}, WRONG, "no data"),
        (Net(), {"train_dataloaders": numbers(), "datamodule": Data()}, WRONG, "Both datamodule and"),
        (Net(), {"datamodule": 3}, TypeError, "datamodule=3 is not a LightningDataModule"),
        (Net(), {"train_dataloaders": 3}, TypeError, "train_dataloaders.* must be a DataLoader.* not 3"),
        (Net(), {"dataloader": numbers()}, TypeError, "no argument 'dataloader'.*train_dataloaders"),
        (Net, {"train_dataloaders": numbers()}, TypeError, r"model is the class Net; pass an instance: Net\(\.\.\.\)"),
        (nn.Linear(1, 1), {"train_dataloaders": numbers()}, TypeError, "model is a Linear; it must be"),
        (None, {"train_dataloaders": numbers()}, TypeError, "model is a NoneType"),
        (Net(), {"train_dataloaders": numbers(0)}, WRONG, "gives no batches.*empty"),
        (Net(), {"train_dataloaders": numbers(), "ckpt_path": 3}, CheckpointError, "ckpt_path=3 must be a path"),
        (Net(), {"train_dataloaders": numbers(), "ckpt_path": "no.ckpt"}, FileNotFoundError, r"no\.ckpt"),
    ],
)  # fmt: skip
def test_what_fit_cannot_take_is_told_before_training(model, arguments, error, words):
    with pytest.raises(error, match=words):
        make_trainer().fit(model, **arguments)


def test_validation_data_without_a_step_and_the_other_way_round_are_told():
    with pytest.warns(UserWarning, match="Net has no validation_step: no validation runs"):
        make_trainer().fit(Net(), numbers(1), numbers(1))
    with pytest.warns(UserWarning, match="Validated has validation_step, but there are no validation data"):
        make_trainer().fit(Validated(), numbers(1))


def test_a_module_that_forgot_its_base_is_told():
    class Forgetting(Net):
        def __init__(self) -> None:
            self.lr = 1

    with pytest.raises(RuntimeError, match=r"Forgetting.__init__ did not call super\(\).__init__\(\)"):
        make_trainer().fit(Forgetting(), numbers(1))


def test_another_fit_starts_anew():
    trainer = make_trainer(max_epochs=2)
    for module in (Net(), Net()):
        trainer.fit(module, numbers(2))
        assert (trainer.global_step, trainer.current_epoch) == (4, 2)


def test_another_fit_goes_on_where_limits_were_raised():
    module, trainer = Net(), make_trainer(max_epochs=2)
    trainer.fit(module, numbers(2))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, numbers(2))
    assert (trainer.global_step, trainer.current_epoch, trainer.max_epochs) == (6, 3, 3)
    trainer.fit_loop.max_epochs = -1
    trainer.fit_loop.epoch_loop.max_steps = 7
    trainer.fit(module, numbers(2))
    assert (trainer.global_step, trainer.current_epoch) == (7, 4)


def test_fit_goes_on_from_a_checkpoint(tmp_path):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Net(lr=0.1), numbers(3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for path in (tmp_path / "a.ckpt", str(tmp_path / "a.ckpt")):
        steps: list[Any] = []
        start = LambdaCallback(on_train_start=lambda t, m, s=steps: s.append((t.global_step, t.current_epoch)))
        again = make_trainer(max_epochs=2, callbacks=start)
        again.fit(Net(lr=0.1), numbers(3), ckpt_path=path)
        assert steps == [(3, 1)]
        assert (again.global_step, again.current_epoch, str(again.ckpt_path)) == (6, 2, str(path))


def test_a_checkpoint_of_weights_only_is_not_enough_for_fit(tmp_path):
    trainer = make_trainer()
    trainer.fit(Scoring(), numbers(1), numbers(1))
    trainer.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match="holds the model only"):
        make_trainer().fit(Scoring(), numbers(1), numbers(1), ckpt_path=tmp_path / "w.ckpt")
    (result,) = make_trainer().validate(Scoring(), numbers(1), ckpt_path=tmp_path / "w.ckpt")
    assert result == {"score": 2.0}


class Object:
    """Something that only unpickling can bring back."""


def test_objects_in_a_checkpoint_need_the_users_word(tmp_path):
    seen = []

    class Carrying(Net):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["object"] = Object()

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            seen.append(type(checkpoint.get("object")))

    trainer = make_trainer()
    trainer.fit(Carrying(), numbers(1))
    with pytest.warns(UserWarning, match=r"Object, which only code can rebuild.*weights_only=False"):
        trainer.save_checkpoint(tmp_path / "o.ckpt")
    again = make_trainer(max_epochs=2)
    with pytest.warns(UserWarning, match="object is left out"):
        again.fit(Carrying(), numbers(1), ckpt_path=tmp_path / "o.ckpt")
    again.fit(Carrying(), numbers(1), ckpt_path=tmp_path / "o.ckpt", weights_only=False)
    assert seen == [type(None), Object]
    assert again.global_step == 2


def test_nothing_left_to_train_is_told():
    trainer = make_trainer()
    trainer.fit(Net(), numbers(2))
    trainer.save_checkpoint("a.ckpt")
    with pytest.warns(UserWarning, match="Nothing to train: the run stands at epoch 1, step 2"):
        make_trainer().fit(Net(), numbers(2), ckpt_path="a.ckpt")


@pytest.mark.slow
def test_a_compiled_module_is_trained_with_its_compiled_forward():
    module = Net(lr=0.1)
    compiled = torch.compile(module, backend="eager")
    trainer = make_trainer()
    trainer.fit(compiled, numbers(3))
    assert trainer.lightning_module is module
    assert trainer.global_step == 3
    assert not torch.equal(module.layer.weight, torch.ones(1, 2))


# ---- validate, test


@pytest.mark.parametrize("verb", ["validate", "test"])
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (Scoring, lambda: {"dataloaders": numbers(2)}),
        (Scoring, lambda: {"dataloaders": [numbers(2)]}),
        (Scoring, lambda: {"datamodule": Data()}),
        (Scoring, lambda: {"dataloaders": Data()}),
        (type("Bringing", (Scoring, Loaded), {}), dict),
    ],
)
def test_evaluation_takes_data_in_every_form_and_returns_a_dict_for_each_loader(verb, model, arguments, capsys):
    trainer = make_trainer()
    assert getattr(trainer, verb)(model(), **arguments()) == [{"score": 2.0}]
    assert f"{verb} metric" in capsys.readouterr().out
    counts = {"validate": trainer.num_val_batches, "test": trainer.num_test_batches}
    assert counts.pop(verb) == [2]
    assert list(counts.values()) == [[]]


def test_a_silent_evaluation_prints_nothing(capsys):
    assert make_trainer().test(Scoring(), numbers(1), verbose=False) == [{"score": 2.0}]
    assert capsys.readouterr().out == ""


def test_the_printed_table_has_a_column_for_each_loader(capsys):
    class Both(Scoring):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            self.log("part", float(dataloader_idx))

        def on_test_epoch_end(self) -> None:
            self.log("all", 0.5)

    make_trainer().test(Both(), [numbers(1), numbers(1)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "─" not in line]
    assert rows == [["test", "metric", "DataLoader", "0", "DataLoader", "1"], ["all", "0.5", "0.5"], ["part", "0", "1"]]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    ("model", "arguments", "error", "words"),
    [
        (Net, {"dataloaders": numbers(1)}, WRONG, "has (no|neither)"),
        (Validated, {}, WRONG, "has no data: pass .*dataloaders="),
        (Validated, {"dataloaders": numbers(), "datamodule": Data()}, WRONG, "Both datamodule and"),
        (Validated, {"dataloaders": 3}, TypeError, "dataloaders.* must be a DataLoader"),
        (Validated, {"dataloaders": numbers(), "chkpt_path": "x"}, TypeError, "'chkpt_path'.*Did you mean 'ckpt_path'"),
        (Validated, {"dataloaders": numbers(), "ckpt_path": "best"}, WRONG, "no checkpoint was kept"),
        (Validated, {"dataloaders": numbers(), "ckpt_path": "no.ckpt"}, FileNotFoundError, r"no\.ckpt"),
    ],
)  # fmt: skip
def test_what_evaluation_cannot_take_is_told(verb, model, arguments, error, words):
    if model is Net:
        model = type("Bare", (L.LightningModule,), {})
    with pytest.raises(error, match=words):
        getattr(make_trainer(), verb)(model(), **arguments)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_without_a_model_there_must_have_been_one(verb):
    with pytest.raises((MisconfigurationException, TypeError), match="without a model"):
        getattr(make_trainer(), verb)(dataloaders=numbers())


def trained(tmp_path: Any, **options: Any) -> tuple[L.Trainer, Any]:
    """A run of three epochs whose score is best in the second: weights 2, 4, 3."""
    sums = iter([2.0, 4.0, 3.0])

    class Given(Scoring):
        def on_train_epoch_end(self) -> None:
            pass

        def on_validation_start(self) -> None:
            if self.trainer.state.fn == "fit":
                nn.init.constant_(self.layer.weight, next(sums) / 2)

    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max", **options)
    trainer = make_trainer(max_epochs=3, callbacks=checkpoint, enable_checkpointing=True)
    module = Given()
    trainer.fit(module, numbers(1), numbers(1))
    return trainer, module


def test_which_weights_are_evaluated(tmp_path):
    trainer, module = trained(tmp_path, save_last=True)
    assert trainer.validate(module, numbers(1)) == [{"score": 3.0}]
    with pytest.warns(UserWarning, match="best weights of the last fit"):
        assert trainer.validate(dataloaders=numbers(1)) == [{"score": 4.0}]
    assert trainer.validate(Scoring(), numbers(1), ckpt_path="best") == [{"score": 4.0}]
    assert trainer.ckpt_path == trainer.checkpoint_callback.best_model_path
    assert trainer.test(Scoring(), numbers(1), ckpt_path=trainer.checkpoint_callback.best_model_path) == [
        {"score": 4.0}
    ]
    assert trainer.test(Scoring(), numbers(1)) == [{"score": 2.0}]


def test_the_last_checkpoint_is_found(tmp_path):
    trainer, module = trained(tmp_path, save_last=True, save_top_k=-1)
    nn.init.zeros_(module.layer.weight)
    assert trainer.validate(module, numbers(1), ckpt_path="last") == [{"score": 3.0}]


def test_no_last_checkpoint_is_told(tmp_path):
    trainer = make_trainer(callbacks=ModelCheckpoint(tmp_path / "empty"), enable_checkpointing=True)
    with pytest.warns(UserWarning, match="ckpt_path='last', but there is no checkpoint yet"):
        trainer.fit(Net(), numbers(1), ckpt_path="last")
    assert trainer.global_step == 1


# ---- predict


def test_predictions_are_a_list_and_with_several_loaders_a_list_of_lists():
    trainer, module = make_trainer(), Validated()
    one = [torch.tensor([[0.0]]), torch.tensor([[2.0]])]
    for data in (numbers(2), [numbers(2)]):
        assert trainer.predict(module, data) == one
    assert trainer.predict(module, datamodule=Data()) == one
    assert trainer.num_predict_batches == [2]
    assert trainer.predict(module, [numbers(1), numbers(2)]) == [one[:1], one]
    assert trainer.num_predict_batches == [1, 2]
    assert trainer.predict(module, numbers(2), return_predictions=False) is None
    assert len(trainer.predict(module, numbers(2), return_predictions="all")) == 2
    with pytest.raises(MisconfigurationException, match="return_predictions='whole'"):
        trainer.predict(module, numbers(2), return_predictions="whole")


def test_prediction_without_a_step_of_its_own_calls_forward():
    assert make_trainer().predict(Net(), numbers(2)) == [torch.tensor([[0.0]]), torch.tensor([[2.0]])]


# ---- checkpoints, printing, making modules


def test_saving_needs_a_model():
    with pytest.raises(AttributeError, match="needs a model"):
        make_trainer().save_checkpoint("x.ckpt")


def test_a_checkpoint_is_readable_by_plain_torch(tmp_path):
    trainer = make_trainer()
    trainer.fit(Net(), numbers(2))
    trainer.save_checkpoint(tmp_path / "a" / "b.ckpt")
    saved = torch.load(tmp_path / "a" / "b.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 2)
    assert saved["state_dict"].keys() == {"layer.weight", "layer.bias"}
    assert len(saved["optimizer_states"]) == 1
    trainer.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    small = torch.load(tmp_path / "w.ckpt", weights_only=True)
    assert small["state_dict"].keys() == saved["state_dict"].keys()
    assert "optimizer_states" not in small


def test_printing_goes_past_the_bar(capsys):
    make_trainer().print("plain", 1, sep="-")
    assert capsys.readouterr().out == "plain-1\n"
    seen = []

    class Bar(TQDMProgressBar):
        def print(self, *args: Any, **kwargs: Any) -> None:
            seen.append((args, kwargs))

    trainer = make_trainer(callbacks=Bar(), enable_progress_bar=True)
    trainer.print("a", end="")
    assert seen == [(("a",), {"end": ""})]


def test_modules_are_made_in_the_trainers_format():
    trainer = make_trainer(precision="64-true")
    with trainer.init_module():
        assert nn.Linear(1, 1).weight.dtype is torch.float64
    assert nn.Linear(1, 1).weight.dtype is torch.float32
    with make_trainer().init_module(empty_init=True):
        layer = nn.init.normal_(torch.zeros(3))
    assert layer.tolist() == [0.0] * 3


# ---- what can be read


def test_a_new_trainer_answers():
    trainer = make_trainer()
    assert (trainer.state.status, trainer.state.fn, trainer.state.stage) == (TrainerStatus.INITIALIZING, None, None)
    flags = ("training", "validating", "testing", "predicting", "sanity_checking", "evaluating", "interrupted")
    assert not any(getattr(trainer, flag) for flag in (*flags, "should_stop", "received_sigterm", "is_last_batch"))
    assert (trainer.global_step, trainer.current_epoch) == (0, 0)
    assert (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics) == ({}, {}, {})
    assert (trainer.optimizers, trainer.lr_scheduler_configs, trainer.ckpt_path) == ([], [], None)
    assert (trainer.lightning_module, trainer.model, trainer.datamodule) == (None, None, None)
    loaders = ("train_dataloader", "val_dataloaders", "test_dataloaders", "predict_dataloaders")
    assert [getattr(trainer, name) for name in loaders] == [None] * 4
    for name in ("num_val_batches", "num_sanity_val_batches", "num_test_batches", "num_predict_batches"):
        assert getattr(trainer, name) == []
    assert (trainer.global_rank, trainer.local_rank, trainer.node_rank) == (0, 0, 0)
    assert (trainer.world_size, trainer.num_nodes, trainer.num_devices, trainer.device_ids) == (1, 1, 1, [0])
    assert trainer.is_global_zero
    assert trainer.distributed_sampler_kwargs is None
    assert (trainer.scaler, trainer.logger, trainer.loggers, trainer.callbacks) == (None, None, [], [])
    assert isinstance(trainer.precision_plugin, Precision)
    assert (trainer.checkpoint_callback, trainer.checkpoint_callbacks) == (None, [])
    assert (trainer.early_stopping_callback, trainer.early_stopping_callbacks) == (None, [])
    assert trainer.progress_bar_callback is None
    assert not trainer.enable_validation
    assert trainer.log_dir == trainer.default_root_dir


def test_the_state_at_every_stage():
    seen = []

    def look(trainer: L.Trainer) -> None:
        state, flags = trainer.state, ("training", "validating", "testing", "predicting", "sanity_checking")
        assert state.status == TrainerStatus.RUNNING
        (flag,) = [flag for flag in flags if getattr(trainer, flag)]
        seen.append((state.fn.value, state.stage.value, flag, trainer.evaluating))

    class Looking(Validated):
        def setup(self, stage: str) -> None:
            look(self.trainer)

        def on_train_batch_end(self, *args: Any) -> None:
            look(self.trainer)

        def on_validation_batch_end(self, *args: Any) -> None:
            look(self.trainer)

        on_test_batch_end = on_predict_batch_end = on_validation_batch_end
        on_train_epoch_end = on_validation_end = on_train_batch_end

    trainer = make_trainer(num_sanity_val_steps=1)
    fit = ("fit", "train", "training", False)
    validation = ("fit", "validate", "validating", True)
    trainer.fit(Looking(), numbers(1), numbers(1))
    assert seen == [fit, *[("fit", "sanity_check", "sanity_checking", True)] * 2, fit, *[validation] * 2, fit]
    for verb, flag in (("validate", "validating"), ("test", "testing"), ("predict", "predicting")):
        seen.clear()
        getattr(trainer, verb)(Looking(), numbers(1))
        assert set(seen) == {(verb, verb, flag, verb != "predict")}
        assert (trainer.state.fn, trainer.state.stage) == (TrainerFn(verb), None)
        assert trainer.state.status == TrainerStatus.FINISHED
    assert RunningStage.TRAINING == "train"


def test_counters_at_every_hook():
    seen = []

    class Counting(Validated):
        def note(self, *args: Any) -> None:
            trainer = self.trainer
            assert (self.global_step, self.current_epoch) == (trainer.global_step, trainer.current_epoch)
            seen.append((trainer.global_step, trainer.current_epoch, trainer.is_last_batch))

    names = ("fit_start", "train_start", "train_epoch_start", "train_batch_start", "before_optimizer_step",
             "train_batch_end", "validation_end", "train_epoch_end", "train_end", "fit_end")  # fmt: skip
    for name in names:
        setattr(Counting, f"on_{name}", Counting.note)
    make_trainer(max_epochs=2).fit(Counting(), numbers(2), numbers(1))
    assert seen == [
        *((0, 0, False), (0, 0, False), (0, 0, False)),
        *((0, 0, False), (0, 0, False), (1, 0, False)),
        *((1, 0, True), (1, 0, True), (2, 0, True)),
        *((2, 0, True), (2, 0, True)),
        (2, 1, True),
        *((2, 1, False), (2, 1, False), (3, 1, False)),
        *((3, 1, True), (3, 1, True), (4, 1, True)),
        *((4, 1, True), (4, 1, True)),
        *((4, 2, True), (4, 2, True)),
    ]


def test_is_last_batch_of_a_stream_is_known_in_time():
    seen = []
    note = LambdaCallback(on_train_batch_start=lambda trainer, *_: seen.append(trainer.is_last_batch))
    make_trainer(callbacks=note).fit(Net(), DataLoader(Stream(3)))
    assert seen == [False, False, True]


def test_numbers_of_batches():
    trainer = make_trainer(num_sanity_val_steps=2, limit_train_batches=3)
    trainer.fit(type("Both", (Validated,), {"validation_step": lambda self, b, i, dataloader_idx: None})(),
                numbers(5), [numbers(1), numbers(4)])  # fmt: skip
    assert trainer.num_training_batches == 3
    assert trainer.num_val_batches == [1, 4]
    assert trainer.num_sanity_val_batches == [1, 2]
    assert trainer.val_check_batch == 3
    trainer.test(trainer.lightning_module, numbers(2), verbose=False)
    assert (trainer.num_val_batches, trainer.num_test_batches) == ([1, 4], [2])
    trainer.fit(Net(), DataLoader(Stream()))
    assert trainer.num_training_batches == 3
    trainer = make_trainer()
    trainer.fit(Net(), DataLoader(Stream()))
    assert trainer.num_training_batches == math.inf


def test_loaders_are_those_that_the_user_gave():
    train, val, test = numbers(1), {"a": numbers(1)}, [numbers(1)]
    trainer, module = make_trainer(), Validated()
    trainer.fit(module, train, val)
    assert trainer.train_dataloader is train
    assert trainer.val_dataloaders is val
    assert trainer.enable_validation
    trainer.test(module, test)
    assert trainer.test_dataloaders is test
    trainer.predict(module, train)
    assert trainer.predict_dataloaders is train
    combined = CombinedLoader([train, train], "min_size")
    trainer.fit(type("Two", (Net,), {"training_step": lambda self, b, i: self(b[0]).mean()})(), combined)
    assert trainer.train_dataloader is combined


def test_parts_of_a_run():
    data, module = Data(), Validated()
    trainer = make_trainer()
    trainer.fit(module, datamodule=data)
    assert trainer.lightning_module is module
    assert trainer.model is module
    assert trainer.datamodule is data
    assert data.trainer is trainer
    assert module.trainer is trainer
    assert [type(optimizer) for optimizer in trainer.optimizers] == [torch.optim.SGD]
    trainer.optimizers = []
    assert trainer.optimizers == []


def test_schedulers_are_listed_with_their_settings():
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 3, "name": "slow"}]

    trainer = make_trainer()
    trainer.fit(Scheduled(), numbers(1))
    (config,) = trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, torch.optim.lr_scheduler.StepLR)
    found = (config.interval, config.frequency, config.name, config.monitor, config.strict, config.reduce_on_plateau)
    assert found == ("step", 3, "slow", None, True, False)


def test_callbacks_of_a_kind_are_found():
    checkpoints, stops = [ModelCheckpoint(), Checkpoint()], [EarlyStopping("a"), EarlyStopping("b")]
    bar = TQDMProgressBar()
    trainer = make_trainer(callbacks=[*checkpoints, bar, *stops], enable_checkpointing=True, enable_progress_bar=True)
    assert trainer.checkpoint_callbacks == checkpoints
    assert trainer.checkpoint_callback is checkpoints[0]
    assert trainer.early_stopping_callbacks == stops
    assert trainer.early_stopping_callback is stops[0]
    assert trainer.progress_bar_callback is bar


def test_loggers_can_be_set():
    trainer, one, two = make_trainer(), Rows(), Rows()
    trainer.logger = one
    assert trainer.loggers == [one]
    trainer.loggers = [two, one]
    assert trainer.logger is two
    trainer.logger = None
    assert trainer.loggers == []


def estimate(loader: Any, accumulate: int = 1, **options: Any) -> Any:
    """What a module reads in configure_optimizers."""
    seen = []

    class Planning(Net):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

        def train_dataloader(self) -> Any:
            seen.append("asked")
            return loader

    trainer = make_trainer(accumulate_grad_batches=accumulate, **options)
    trainer.fit(Planning())
    assert seen.count("asked") == 1  # not again when the epochs begin
    seen.remove("asked")
    assert trainer.estimated_stepping_batches == seen[0]
    return seen[0], trainer.global_step


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 2}, 10),
        ({"max_epochs": 2, "accumulate": 2}, 6),
        ({"max_epochs": 2, "max_steps": 4}, 4),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 4),
    ],
)
def test_the_estimate_of_steps_is_what_is_then_run(options, expected):
    assert estimate(numbers(5), **options) == (expected, expected)


def test_the_estimate_of_steps_where_the_end_is_not_known():
    assert estimate(DataLoader(Stream()), max_epochs=1, max_steps=3) == (3, 3)
    assert estimate(DataLoader(Stream(2)), max_epochs=1)[0] == -1
    assert estimate(numbers(5), max_epochs=-1, max_time={"milliseconds": 5})[0] == math.inf


def test_the_folder_of_logs():
    class Foldered(Rows):
        log_dir = "somewhere/version_3"

    class Saving(Rows):
        save_dir = "elsewhere"

    assert make_trainer(logger=Foldered()).log_dir == "somewhere/version_3"
    assert make_trainer(logger=Saving()).log_dir == "elsewhere"


def test_stopping_is_forgotten_by_the_next_fit():
    trainer = make_trainer(callbacks=LambdaCallback(on_train_batch_end=lambda t, *_: setattr(t, "should_stop", True)))
    trainer.fit(Net(), numbers(3))
    assert (trainer.should_stop, trainer.global_step) == (True, 1)
    trainer.callbacks.clear()
    trainer.fit(Net(), numbers(3))
    assert (trainer.should_stop, trainer.global_step) == (False, 3)


def test_options_that_callbacks_change_hold_from_the_next_epoch_on():
    class Changing(Net):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.trainer.accumulate_grad_batches = 2
                self.trainer.gradient_clip_val = 1e-3

        def on_train_epoch_end(self) -> None:
            steps.append(self.trainer.global_step)
            weights.append(self.layer.weight.detach().clone())

    steps: list[int] = []
    weights = [torch.ones(1, 2)]
    make_trainer(max_epochs=2).fit(Changing(lr=1.0), numbers(4))
    assert steps == [4, 6]
    moved = [(after - before).norm().item() for before, after in pairwise(weights)]
    assert moved[0] > 1
    assert moved[1] < 3e-3


def test_hyperparameters_reach_the_loggers_once():
    class Tuned(Net):
        def __init__(self, lr: float = 0.1, width: int = 3) -> None:
            super().__init__(lr)
            self.save_hyperparameters()

    class Batched(Data):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

    for on, expected in ((True, [{"size": 4, "lr": 0.1, "width": 3}]), (False, [])):
        rows = Rows()
        trainer = make_trainer(logger=rows, enable_autolog_hparams=on, log_every_n_steps=1, limit_val_batches=0)
        trainer.fit(Tuned(), datamodule=Batched())
        assert rows.hparams == expected
        assert rows.ended == ["success"]


def test_the_same_hyperparameter_with_two_values_is_an_error():
    class Tuned(Net):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Sized(Data):
        def __init__(self, size: int = 5) -> None:
            super().__init__()
            self.save_hyperparameters()

    with pytest.raises(MisconfigurationException, match="hyperparameter 'size', with different values"):
        make_trainer(logger=Rows(), limit_val_batches=0).fit(Tuned(), datamodule=Sized())
