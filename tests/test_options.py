"""The Trainer's arguments: what is accepted, what is refused in which words, and what each of them does."""

from __future__ import annotations

import logging
import os
import time
from collections import UserDict, UserList
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
from small import Net, Numbers, Rows, Stream, Validated, make_trainer, numbers
from torch.utils.data import DataLoader

import fulmen as L
from fulmen import options
from fulmen.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, Timer
from fulmen.device import CPUAccelerator
from fulmen.errors import MisconfigurationException
from fulmen.loggers import CSVLogger, TensorBoardLogger
from fulmen.precision import DoublePrecision
from fulmen.strategy import DDPStrategy, SingleDeviceStrategy
from fulmen.strategy.checkpoint_io import CheckpointIO

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that must not be there")


def kinds(parts: list[Any]) -> list[str]:
    return [type(part).__name__ for part in parts]


# ---- defaults


def test_the_defaults():
    with pytest.warns(UserWarning, match="max_epochs was not set"):
        trainer = L.Trainer(accelerator="cpu")
    expected = {
        "accumulate_grad_batches": 1,
        "barebones": False,
        "check_val_every_n_epoch": 1,
        "default_root_dir": os.getcwd(),
        "enable_autolog_hparams": True,
        "fast_dev_run": False,
        "gradient_clip_algorithm": None,
        "gradient_clip_val": None,
        "limit_predict_batches": 1.0,
        "limit_test_batches": 1.0,
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "log_every_n_steps": 50,
        "max_epochs": 1000,
        "max_steps": -1,
        "min_epochs": None,
        "min_steps": None,
        "num_nodes": 1,
        "num_sanity_val_steps": 2,
        "overfit_batches": 0.0,
        "precision": "32-true",
        "reload_dataloaders_every_n_epochs": 0,
        "val_check_interval": 1.0,
    }
    assert {name: getattr(trainer, name) for name in expected} == expected
    assert kinds(trainer.loggers) == ["TensorBoardLogger"]
    assert {"ModelCheckpoint", "ModelSummary"} <= {base.__name__ for c in trainer.callbacks for base in type(c).__mro__}
    assert trainer.progress_bar_callback is not None
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    assert isinstance(trainer.accelerator, CPUAccelerator)
    assert options.Options().inference_mode
    assert options.Options().use_distributed_sampler


def test_making_a_trainer_writes_nothing(own_folder):
    L.Trainer(accelerator="cpu", max_epochs=1)
    assert not list(own_folder.iterdir())


def test_arguments_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        L.Trainer("cpu")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_epoch", "'max_epochs'"),
        ("acelerator", "'accelerator'"),
        ("gradient_clip_value", "'gradient_clip_val'"),
        ("colour", "argument 'colour'"),
    ],
)
def test_an_unknown_argument_is_an_error_with_the_nearest_one(name, words):
    with pytest.raises((TypeError, MisconfigurationException), match=words):
        L.Trainer(**{name: 1})


# ---- refused


REFUSED = {
    "accelerator": ("cup", 3),
    "strategy": ("dpp", 3),
    "devices": (0, "0", [], [0], "x"),
    "num_nodes": (0, -1, "2", 1.5),
    "precision": ("17", 8, "float16"),
    "logger": ("tensorboard", 3, [True], TensorBoardLogger),
    "callbacks": ("early", 3, EarlyStopping, [ModelSummary(), 3]),
    "fast_dev_run": (-1, 1.5, "yes"),
    "max_epochs": (-2, 1.5, "3", True),
    "min_epochs": (-1, 1.5, "3"),
    "max_steps": (-2, 1.5, "3"),
    "min_steps": (-1, 1.5, "3"),
    "max_time": ("an hour", "1:00", 3, {"minuts": 1}),
    "limit_train_batches": (-1, -0.5, 1.5, "3"),
    "limit_val_batches": (-1, -0.5, 1.5, "3"),
    "limit_test_batches": (-1, -0.5, 1.5, "3"),
    "limit_predict_batches": (-1, -0.5, 1.5, "3"),
    "overfit_batches": (-1, -0.5, 1.5, "3"),
    "val_check_interval": (-1, 0, 0.0, 1.5, "soon", {"minuts": 1}),
    "check_val_every_n_epoch": (0, -1, 1.5, "2"),
    "num_sanity_val_steps": (-2, 1.5, "2"),
    "log_every_n_steps": (-1, 1.5, "2"),
    "enable_checkpointing": ("yes", 3),
    "enable_progress_bar": ("yes", 3),
    "enable_model_summary": ("yes", 3),
    "accumulate_grad_batches": (0, -1, 1.5, "2"),
    "gradient_clip_val": ("1", True, [1.0]),
    "gradient_clip_algorithm": ("norms", 2),
    "deterministic": ("yes", 3),
    "benchmark": ("yes", 3),
    "inference_mode": ("yes", 3),
    "use_distributed_sampler": ("yes", 3),
    "profiler": ("simpel",),
    "detect_anomaly": ("yes", 3),
    "barebones": ("yes", 3),
    "plugins": ("foo", 3),
    "sync_batchnorm": ("yes", 3),
    "reload_dataloaders_every_n_epochs": (-1, 1.5, "2"),
    "default_root_dir": (3,),
    "enable_autolog_hparams": ("yes", 3),
    "model_registry": ("mine",),
    "compile": ("yes", 3, {"backends": "eager"}),
    "cuda_graph": ("yes", 3),
    "async_save": ("yes", 3),
    "accumulate_across_epochs": ("yes", 3),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_wrong_value_is_refused_when_the_trainer_is_made(name, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, name: value})
    text = str(caught.value)
    assert name in text
    assert text.count(". ") <= 2, text
    assert len(text) < 450


def test_every_argument_is_refused_something():
    assert set(REFUSED) | {"nonfinite"} >= set(options.NAMES) - {"resume"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"enable_checkpointing": False, "callbacks": ModelCheckpoint()}, "enable_checkpointing=False"),
        ({"enable_progress_bar": False, "callbacks": L.callbacks.TQDMProgressBar()}, "enable_progress_bar=False"),
        ({"callbacks": [L.callbacks.TQDMProgressBar(), L.callbacks.TQDMProgressBar()]}, "more than one progress bar"),
        ({"callbacks": [ModelCheckpoint(), ModelCheckpoint()]}, "two ModelCheckpoint with the same state_key"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 0.5}, "must be an int"),
        ({"precision": "64-true", "plugins": DoublePrecision()}, "precision"),
        ({"plugins": [DoublePrecision(), DoublePrecision()]}, "more than one"),
        ({"profiler": "simple"}, "profiler"),
    ],
)
def test_what_cannot_go_together_is_refused_when_the_trainer_is_made(given, words):
    with pytest.raises(MisconfigurationException, match=words):
        L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, **given})


@no_cuda
def test_a_device_that_is_not_there_is_refused_with_what_is():
    with pytest.raises(MisconfigurationException, match=r"(?i)gpu|cuda"):
        L.Trainer(accelerator="gpu", max_epochs=1)


# ---- where it runs


@pytest.mark.parametrize(
    ("given", "strategy", "devices"),
    [
        ({}, "SingleDeviceStrategy", 1),
        ({"devices": 1}, "SingleDeviceStrategy", 1),
        ({"devices": "1"}, "SingleDeviceStrategy", 1),
        ({"devices": 2}, "DDPStrategy", 2),
        ({"devices": "3"}, "DDPStrategy", 3),
        ({"devices": 1, "strategy": "ddp"}, "DDPStrategy", 1),
        ({"devices": 2, "strategy": DDPStrategy()}, "DDPStrategy", 2),
        ({"strategy": SingleDeviceStrategy("cpu")}, "SingleDeviceStrategy", 1),
    ],
)
def test_devices_and_strategy(given, strategy, devices):
    trainer = make_trainer(**given)
    assert type(trainer.strategy).__name__ == strategy
    assert trainer.num_devices == devices
    assert trainer.world_size == devices
    assert trainer.device_ids == list(range(devices))


@pytest.mark.parametrize("accelerator", ["cpu", CPUAccelerator()])
def test_the_accelerator_by_name_or_as_an_object(accelerator):
    assert isinstance(make_trainer(accelerator=accelerator).accelerator, CPUAccelerator)


def test_several_nodes_mean_ddp(monkeypatch):
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "29511", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(num_nodes=2)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert (trainer.num_nodes, trainer.node_rank, trainer.world_size) == (2, 1, 2)


@pytest.mark.parametrize("precision", ["64", 64, "64-true"])
def test_precision_changes_the_weights(precision):
    module = Net()
    trainer = make_trainer(precision=precision)
    trainer.fit(module, numbers(1))
    assert trainer.precision == "64-true"
    assert module.layer.weight.dtype is torch.float64


def test_a_precision_as_a_plugin():
    plugin = DoublePrecision()
    assert make_trainer(plugins=[plugin]).precision_plugin is plugin


def test_a_checkpoint_io_as_a_plugin(tmp_path):
    class Remembering(CheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            self.saved = str(path), checkpoint["global_step"], storage_options

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
            raise AssertionError

        def remove_checkpoint(self, path: Any) -> None: ...

    plugin = Remembering()
    trainer = make_trainer(plugins=plugin)
    trainer.fit(Net(), numbers(2))
    trainer.save_checkpoint("somewhere", storage_options={"a": 1})
    assert plugin.saved == ("somewhere", 2, {"a": 1})


# ---- parts that are made for you


@pytest.mark.parametrize("off", [False, None])
def test_loggers(off, tmp_path):
    given = {"accelerator": "cpu", "max_epochs": 1}
    one, two = CSVLogger(tmp_path), Rows()
    assert L.Trainer(**given, logger=one).loggers == [one]
    assert L.Trainer(**given, logger=[one, two]).loggers == [one, two]
    assert L.Trainer(**given, logger=(one, two)).logger is one
    assert L.Trainer(**given, logger=[]).loggers == []
    assert kinds(L.Trainer(**given, logger=True).loggers) == ["TensorBoardLogger"]
    assert kinds(L.Trainer(**given, logger=off).loggers) == ([] if off is False else ["TensorBoardLogger"])


def test_parts_that_can_be_turned_off():
    on = {"enable_checkpointing": True, "enable_progress_bar": True, "enable_model_summary": True}
    for name in on:
        callbacks = make_trainer(**{**on, name: False}).callbacks
        assert len(callbacks) == 2
    assert make_trainer().callbacks == []


def test_own_parts_take_the_place_of_those_made_for_you():
    own = [ModelCheckpoint(), ModelSummary(), L.callbacks.TQDMProgressBar()]
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=own, logger=False)
    assert set(trainer.callbacks) == set(own)
    assert trainer.callbacks[-1] is own[0]


def test_a_single_callback_needs_no_list():
    callback = L.Callback()
    assert make_trainer(callbacks=callback).callbacks == [callback]


def test_the_users_list_of_callbacks_stays_as_it_is():
    own = [L.Callback()]
    make_trainer(callbacks=own, enable_model_summary=True)
    assert len(own) == 1


@pytest.mark.parametrize("duration", ["00:00:01:30", timedelta(seconds=90), {"minutes": 1, "seconds": 30}])
def test_max_time_adds_a_timer(duration):
    (timer,) = make_trainer(max_time=duration).callbacks
    assert isinstance(timer, Timer)
    assert timer.time_remaining() == 90


def test_max_time_stops_the_run():
    trainer = make_trainer(max_time={"milliseconds": 30}, max_epochs=None)
    start = time.monotonic()
    trainer.fit(Net(), numbers(4))
    assert 0.02 < time.monotonic() - start < 5
    assert trainer.global_step > 0


def test_the_root_folder(tmp_path):
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path / "a" / ".." / "b")
    assert trainer.default_root_dir == str(tmp_path / "b")
    assert trainer.log_dir == str(tmp_path / "b" / "lightning_logs" / "version_0")
    assert make_trainer(default_root_dir="~/x").default_root_dir == os.path.expanduser("~/x")
    assert make_trainer(default_root_dir="s3://bucket/x").default_root_dir == "s3://bucket/x"


def test_what_a_run_writes_lies_under_the_root_folder(tmp_path, own_folder):
    trainer = make_trainer(default_root_dir=tmp_path / "runs", logger=True, enable_checkpointing=True)
    trainer.log_every_n_steps = 1
    trainer.fit(Net(), numbers(2))
    run = tmp_path / "runs" / "lightning_logs" / "version_0"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["epoch=0-step=2.ckpt"]
    assert list(run.glob("events.*"))
    assert [path.name for path in own_folder.iterdir()] == ["runs"]


# ---- presets


@pytest.mark.parametrize(("given", "count"), [(True, 1), (3, 3)])
def test_fast_dev_run_is_a_few_batches_of_everything_and_leaves_nothing(given, count, own_folder):
    counted = {"train": 0, "val": 0}

    class Counting(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            counted["train"] += 1
            self.log("loss", 1.0)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            counted["val"] += 1

    trainer = L.Trainer(accelerator="cpu", fast_dev_run=given, enable_progress_bar=False)
    trainer.fit(Counting(), numbers(9), numbers(9))
    assert counted == {"train": count, "val": count}
    assert (trainer.global_step, trainer.current_epoch, trainer.num_sanity_val_steps) == (count, 1, 0)
    assert kinds(trainer.loggers) == ["DummyLogger"]
    assert not list(own_folder.rglob("*.ckpt"))


def test_fast_dev_run_replaces_an_own_logger():
    rows = Rows()
    trainer = make_trainer(fast_dev_run=True, logger=rows)
    trainer.fit(Net(), numbers(2))
    assert kinds(trainer.loggers) == ["DummyLogger"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_checkpointing", True),
        ("logger", True),
        ("enable_progress_bar", True),
        ("enable_model_summary", True),
        ("num_sanity_val_steps", 2),
        ("log_every_n_steps", 5),
        ("fast_dev_run", True),
        ("detect_anomaly", True),
    ],
)
def test_barebones_refuses_what_it_turns_off(name, value):
    with pytest.raises(MisconfigurationException, match=f"barebones.*{name}"):
        L.Trainer(accelerator="cpu", max_epochs=1, barebones=True, **{name: value})


def test_barebones_turns_everything_off_and_logging_with_one_warning(own_folder):
    class Logging(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 1.0)
            return super().training_step(batch, batch_idx)

    trainer = L.Trainer(accelerator="cpu", max_epochs=1, barebones=True)
    assert (trainer.callbacks, trainer.loggers, trainer.num_sanity_val_steps) == ([], [], 0)
    with pytest.warns(UserWarning, match="barebones") as caught:
        trainer.fit(Logging(), numbers(3))
    assert len(caught) == 1
    assert trainer.callback_metrics == {}
    assert not list(own_folder.iterdir())


# ---- switches of torch


@pytest.fixture
def torchs_switches():
    cudnn = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = cudnn


@pytest.mark.usefixtures("torchs_switches")
@pytest.mark.parametrize(("value", "on", "warns"), [(True, True, False), ("warn", True, True), (False, False, False)])
def test_deterministic_sets_torchs_switches(value, on, warns):
    torch.backends.cudnn.benchmark = True
    make_trainer(deterministic=value)
    assert torch.are_deterministic_algorithms_enabled() is on
    assert torch.is_deterministic_algorithms_warn_only_enabled() is warns
    assert torch.backends.cudnn.benchmark is not on
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is on


@pytest.mark.usefixtures("torchs_switches")
def test_deterministic_left_alone_changes_nothing():
    torch.use_deterministic_algorithms(True)
    make_trainer()
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("torchs_switches")
@pytest.mark.parametrize("value", [True, False, None])
def test_benchmark_sets_cudnns_switch_or_leaves_it(value):
    torch.backends.cudnn.benchmark = before = value is None
    make_trainer(benchmark=value)
    assert torch.backends.cudnn.benchmark is (before if value is None else value)


@pytest.mark.parametrize("on", [True, False])
def test_detect_anomaly_is_on_within_fit_only(on):
    seen = []

    class Looking(Net):
        def on_before_backward(self, loss: Any) -> None:
            seen.append(torch.is_anomaly_enabled())

    make_trainer(detect_anomaly=on).fit(Looking(), numbers(1))
    assert seen == [on]
    assert not torch.is_anomaly_enabled()


# ---- how much of the data


class Counted(Validated):
    """Counts the batches of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.count = dict.fromkeys(("train", "val", "test", "predict"), 0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.count["train"] += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.count["val"] += 1

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.count["test"] += 1

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        self.count["predict"] += 1


@pytest.mark.parametrize(
    ("limit", "batches"), [(3, 3), (99, 10), (0.5, 5), (0.29, 2), (1.0, 10), (None, 10), (0, 0), (True, 1)]
)
def test_limits_of_each_stage(limit, batches):
    module = Counted()
    trainer = make_trainer(**dict.fromkeys(options.LIMITS, limit))
    trainer.fit(module, numbers(10), numbers(10))
    trainer.test(module, numbers(10))
    trainer.predict(module, numbers(10))
    assert module.count == dict.fromkeys(module.count, batches)


def test_a_limit_of_one_batch_or_all_of_them(caplog):
    with caplog.at_level(logging.INFO, logger="fulmen"):
        trainer = make_trainer(limit_train_batches=1, limit_val_batches=1.0)
    assert "limit_train_batches=1" in caplog.text
    module = Counted()
    trainer.fit(module, numbers(4), numbers(4))
    assert (module.count["train"], module.count["val"]) == (1, 4)


@pytest.mark.parametrize(("stage", "verb"), [("train", "fit"), ("val", "validate"), ("test", "test")])
def test_a_share_that_is_less_than_a_batch_is_an_error_with_the_least_that_works(stage, verb):
    trainer = make_trainer(**{f"limit_{stage}_batches": 0.05})
    with pytest.raises(
        MisconfigurationException, match=rf"limit_{stage}_batches=0.05 of 10 .*limit_{stage}_batches=0.1"
    ):
        getattr(trainer, verb)(Validated() if verb != "fit" else Net(), numbers(10))


def test_a_share_of_a_stream_is_an_error_and_a_number_is_not():
    module = Counted()
    make_trainer(limit_train_batches=2, limit_val_batches=1).fit(module, DataLoader(Stream()), DataLoader(Stream()))
    assert (module.count["train"], module.count["val"]) == (2, 1)
    with pytest.raises(MisconfigurationException, match=r"limit_train_batches=0.5 .*no length"):
        make_trainer(limit_train_batches=0.5).fit(Net(), DataLoader(Stream()))


@pytest.mark.parametrize(("overfit", "expected"), [(2, [0, 1]), (0.5, [0, 1])])
def test_overfit_batches_takes_the_same_batches_of_both_loaders_unshuffled(overfit, expected):
    seen: dict[str, list[int]] = {"train": [], "val": []}

    class Looking(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen["train"].append(int(batch[0, 0]))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen["val"].append(int(batch[0, 0]))

    trainer = make_trainer(max_epochs=2, overfit_batches=overfit, limit_train_batches=1, limit_val_batches=3)
    with pytest.warns(UserWarning, match="overfit_batches"):
        trainer.fit(Looking(), numbers(4, shuffle=True), DataLoader(Numbers(4, first=10)))
    assert seen == {"train": expected * 2, "val": [10 + i for i in expected] * 2}


# ---- how long


def test_training_ends_at_max_epochs_or_at_max_steps():
    for given, epochs, steps in (
        ({"max_epochs": 2}, 2, 6),
        ({"max_epochs": 2, "max_steps": 4}, 2, 4),
        ({"max_epochs": -1, "max_steps": 7}, 3, 7),
        ({"max_epochs": None, "max_steps": 3}, 1, 3),
        ({"max_epochs": 0}, 0, 0),
        ({"max_epochs": 3, "max_steps": 0}, 0, 0),
    ):
        trainer = make_trainer(**given)
        trainer.fit(Net(), numbers(3))
        assert (trainer.current_epoch, trainer.global_step) == (epochs, steps), given


class Stopping(Validated):
    """Asks to stop after the first batch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trainer.should_stop = True


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [
        ({}, 1, 1),
        ({"min_epochs": 1}, 1, 3),
        ({"min_epochs": 2}, 2, 6),
        ({"min_steps": 5}, 2, 5),
        ({"min_epochs": 2, "min_steps": 7}, 3, 7),
    ],
)
def test_should_stop_counts_from_min_epochs_and_min_steps_on(given, epochs, steps):
    trainer = make_trainer(max_epochs=5, **given)
    trainer.fit(Stopping(), numbers(3), numbers(1))
    assert (trainer.current_epoch, trainer.global_step) == (epochs, steps)


def test_a_least_above_the_most_is_told():
    with pytest.warns(UserWarning, match="min_epochs=5 is above max_epochs=2"):
        make_trainer(min_epochs=5, max_epochs=2)


# ---- environment


def test_an_environment_variable_gives_an_argument_that_is_not_given(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "3")
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "0.5")
    trainer = L.Trainer(accelerator="cpu", limit_train_batches=2)
    assert trainer.max_epochs == 3
    assert trainer.limit_train_batches == 2


def test_lists_and_dicts_of_a_configurations_own_kind_and_numbers_of_numpy_are_taken():
    """As Hydra gives them."""
    callback, logger = L.Callback(), CSVLogger("logs")
    trainer = L.Trainer(
        callbacks=UserList([callback]), logger=UserList([logger]),
        max_time=UserDict(hours=1), max_epochs=np.int64(3), limit_train_batches=np.float32(0.5),
    )  # fmt: skip
    assert callback in trainer.callbacks
    assert trainer.loggers == [logger]
    assert (trainer.max_epochs, trainer.limit_train_batches) == (3, 0.5)
    assert type(trainer.max_epochs) is int
