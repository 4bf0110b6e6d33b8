"""Checkpoints as other eras wrote them: each is built here the way such files look."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import pytest
import torch
from small import Validated, make_trainer, numbers
from torch import Tensor

import fulmen as L
from fulmen.callbacks import EarlyStopping, ModelCheckpoint
from fulmen.checkpoint import files
from fulmen.compat.finder import Finder
from fulmen.errors import ForeignCheckpoint
from fulmen.states import RunningStage

STOP = "EarlyStopping{'monitor': 'v', 'mode': 'min'}"
KEEP = (
    "ModelCheckpoint{'monitor': 'v', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
    "'train_time_interval': None%s}"
)


class Learning(Validated):
    """Three batches an epoch, a scheduler, and a note of what it trains on."""

    def __init__(self, hparams: Any = None, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.seen: list[tuple[int, int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, int(batch[0, 0])))
        return (self(batch) - 3).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("v", self(batch).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Mine(L.Callback):
    seen = 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


def train(max_epochs: int = 3, callbacks: Any = (), **options: Any) -> tuple[Learning, L.Trainer]:
    module, trainer = Learning(), make_trainer(max_epochs=max_epochs, callbacks=list(callbacks))
    trainer.fit(module, numbers(3), numbers(2), **options)
    return module, trainer


class SavesInside(L.Callback):
    """A file behind every batch and validation, before the first batch, and at the ends of the epoch."""

    def __init__(self) -> None:
        for hook in ("train_batch_end", "validation_end", "train_epoch_start", "train_epoch_end", "train_end"):
            setattr(self, f"on_{hook}", self.saver(hook))

    def saver(self, hook: str) -> Callable[..., None]:
        def save(trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(f"{hook}-{trainer.global_step}.ckpt")

        return save


def bare(path: str) -> dict[str, Any]:
    """A checkpoint without what only Fulmen writes."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["fulmen"], checkpoint["callbacks"]
    return checkpoint


@pytest.fixture
def epoch() -> dict[str, Any]:
    """What every era keeps of a run: behind its first epoch of three batches."""
    _, trainer = train(1)
    trainer.save_checkpoint("one.ckpt")
    checkpoint = bare("one.ckpt")
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}


@contextmanager
def old_names() -> Iterator[Callable[..., Any]]:
    """Makes classes that pickle by an old path, which nothing is importable from afterwards."""
    made: list[str] = []

    def make(path: str, *bases: type) -> Any:
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            if part not in sys.modules:
                sys.modules[part] = ModuleType(part)
                made.append(part)
        kind = type(name, bases, {"__module__": module})
        setattr(sys.modules[module], name, kind)
        return kind

    try:
        yield make
    finally:
        for part in made:
            del sys.modules[part]


# ---- each era's file goes on


def early(epoch: dict[str, Any]) -> dict[str, Any]:
    """0.7: the callbacks' states are single keys, the hyperparameters are under "hparams"."""
    return {
        "epoch": 1, "global_step": 3, "checkpoint_callback_best": 0, "early_stop_callback_wait": 1,
        "early_stop_callback_patience": 3, "hparams": {"width": 3}, "hparams_type": "Namespace", **epoch,
    }  # fmt: skip


def late_zero(epoch: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": 1, "global_step": 3, "pytorch-lightning_version": "0.9.0",
        "checkpoint_callback_best_model_score": torch.tensor(0.5), "checkpoint_callback_best_model_path": "old/a.ckpt",
        "early_stop_callback_state_dict": stopping(), "hparams_name": "hparams", "hyper_parameters": {"width": 3},
        **epoch,
    }  # fmt: skip


def stopping() -> dict[str, Any]:
    return {"wait_count": 1, "stopped_epoch": 0, "best_score": torch.tensor(0.5), "patience": 3}


def keeping() -> dict[str, Any]:
    return {
        "monitor": "v", "best_model_score": torch.tensor(0.5), "best_model_path": "old/a.ckpt",
        "current_score": torch.tensor(0.5), "dirpath": os.path.abspath("old"),
    }  # fmt: skip


def by_string(version: str, added: str = "") -> Callable[[dict[str, Any]], dict[str, Any]]:
    def build(epoch: dict[str, Any]) -> dict[str, Any]:
        states = {STOP: stopping(), KEEP % added: keeping(), "Mine": {"seen": 5}}
        known = {"epoch": 1, "global_step": 3, "pytorch-lightning_version": version, "callbacks": states}
        return {**known, "hparams_name": "hparams", "hyper_parameters": {"width": 3}, **epoch}

    return build


def with_loops(epoch: dict[str, Any]) -> dict[str, Any]:
    """1.6 to 1.9: the epoch is counted when it is over, and loops say where they stand."""
    ended = {"ready": 1, "completed": 0, "started": 1, "processed": 1}
    done = dict.fromkeys(("ready", "completed", "started", "processed"), 3)
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": 3},
        "epoch_loop.batch_progress": {"total": done, "current": done, "is_last_batch": True},
        "epoch_progress": {"total": ended, "current": ended},
    }
    built = by_string("1.8.6", ", 'save_on_train_epoch_end': True")(epoch)
    return {**built, "epoch": 0, "loops": {"fit_loop": fit}}


ERAS = {
    "0.7": early,
    "0.9": late_zero,
    "1.5": by_string("1.5.10", ", 'save_on_train_epoch_end': True"),
    "1.8": with_loops,
}


@pytest.mark.parametrize("era", ERAS)
def test_training_goes_on_behind_the_epoch(epoch, era):
    torch.save(ERAS[era](epoch), "old.ckpt")
    through, _ = train(3)
    module, trainer = train(3, ckpt_path="old.ckpt")
    assert module.seen == through.seen[3:]
    assert (trainer.current_epoch, trainer.global_step) == (3, 9)
    assert torch.equal(module.layer.weight, through.layer.weight)


@pytest.mark.parametrize("era", ERAS)
def test_hyperparameters_make_the_module_again(epoch, era):
    torch.save(ERAS[era](epoch), "old.ckpt")
    module = Learning.load_from_checkpoint("old.ckpt")
    assert module.hparams.hparams.width == 3
    assert torch.equal(module.layer.weight, epoch["state_dict"]["layer.weight"])


@pytest.mark.parametrize("era", [era for era in ERAS if era != "0.7"])  # which kept no best score
def test_early_stopping_goes_on_waiting(epoch, era):
    torch.save(ERAS[era](epoch), "old.ckpt")
    stop = EarlyStopping("v", patience=5)
    train(2, [stop], ckpt_path="old.ckpt")
    assert (stop.patience, stop.best_score.item()) == (3, 0.5)
    assert stop.wait_count == 2


@pytest.mark.parametrize("era", [era for era in ERAS if era != "0.7"])
def test_the_best_file_stays_known(epoch, era):
    torch.save(ERAS[era](epoch), "old.ckpt")
    keep = ModelCheckpoint("old", monitor="v")
    trainer = make_trainer(enable_checkpointing=True, max_epochs=2, callbacks=[keep])
    trainer.fit(Learning(), numbers(3), numbers(2), ckpt_path="old.ckpt")
    assert (keep.best_model_path, keep.best_model_score) == ("old/a.ckpt", torch.tensor(0.5))


@pytest.mark.parametrize("zipped", [True, False])
def test_states_by_the_callback_s_class(epoch, zipped):
    """1.0 to 1.4 kept classes as keys, the user's own too."""
    old = by_string("1.4.9")(epoch)
    with old_names() as make:
        old["callbacks"] = {
            make("pytorch_lightning.callbacks.early_stopping.EarlyStopping"): stopping(),
            make("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"): keeping(),
            make("their_project.callbacks.Mine"): {"seen": 5},
        }
        old["hyper_parameters"] = {"hparams": Namespace(width=3), "lr": 0.02}
        old["hparams_name"] = "kwargs"
        torch.save(old, "old.ckpt", _use_new_zipfile_serialization=zipped)
    stop, keep, mine = EarlyStopping("v"), ModelCheckpoint("old", monitor="v"), Mine()
    trainer = make_trainer(enable_checkpointing=True, max_epochs=2, callbacks=[stop, keep, mine])
    module = Learning.load_from_checkpoint("old.ckpt")
    trainer.fit(module, numbers(3), numbers(2), ckpt_path="old.ckpt")
    assert (module.lr, module.hparams.hparams) == (0.02, Namespace(width=3))
    assert (stop.wait_count, keep.best_model_path, mine.seen) == (2, "old/a.ckpt", 5)


# ---- within an epoch


PLACES = [
    "train_batch_end-4", "train_batch_end-5", "train_batch_end-6", "validation_end-6", "train_epoch_end-6",
    "train_epoch_start-3",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_file_without_fulmen_s_own_part_goes_on_at_its_batch(place):
    through, _ = train(4, [SavesInside()])
    torch.save(bare(f"{place}.ckpt"), "bare.ckpt")
    module, trainer = train(4, ckpt_path="bare.ckpt")
    steps = int(place.rpartition("-")[2])
    assert module.seen == through.seen[steps:]
    assert (trainer.current_epoch, trainer.global_step, trainer.progress.stepped) == (4, 12, 12)
    assert torch.equal(module.layer.weight, through.layer.weight)


@pytest.mark.parametrize(("completed", "validations"), [(2, 2), (3, 1)])
def test_validation_that_was_due_runs_and_one_that_was_done_does_not(completed, validations):
    """A batch counts as completed when its validation begins."""
    train(2, [SavesInside()])
    checkpoint = bare("validation_end-3.ckpt")
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    batches["current"]["completed"] = batches["total"]["completed"] = completed
    torch.save(checkpoint, "bare.ckpt")
    _, trainer = train(2, ckpt_path="bare.ckpt")
    assert trainer.progress.validations == validations


def test_a_plateau_does_not_wait_for_a_value_that_no_file_has():
    class Watching(Learning):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "v"}}

    make_trainer(callbacks=[SavesInside()]).fit(Watching(), numbers(3), numbers(2))
    torch.save(bare("validation_end-3.ckpt"), "bare.ckpt")
    module, trainer = Watching(), make_trainer(max_epochs=2)
    trainer.fit(module, numbers(3), numbers(2), ckpt_path="bare.ckpt")
    assert [step[:2] for step in module.seen] == [(1, 0), (1, 1), (1, 2)]
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 1


def test_loaders_get_their_states_back():
    class Knowing(torch.utils.data.DataLoader):
        given: Any = None

        def state_dict(self) -> dict[str, Any]:
            return {"at": 1}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            Knowing.given = state_dict

    train(2, [SavesInside()])
    checkpoint = bare("train_batch_end-4.ckpt")
    checkpoint["loops"]["fit_loop"]["state_dict"] = {"combined_loader": [{"at": 7}]}
    torch.save(checkpoint, "bare.ckpt")
    make_trainer(max_epochs=2).fit(Learning(), Knowing(numbers(3).dataset), numbers(1), ckpt_path="bare.ckpt")
    assert Knowing.given == {"at": 7}


def test_the_random_states_of_the_process_are_left_as_they_are():
    train(1)[1].save_checkpoint("one.ckpt")
    torch.save(bare("one.ckpt"), "bare.ckpt")

    class Drawing(Learning):
        def on_train_start(self) -> None:
            self.drawn = torch.rand(1)

    torch.manual_seed(5)
    expected = torch.rand(1)
    module = Drawing()
    torch.manual_seed(5)
    make_trainer(max_epochs=2).fit(module, numbers(3), numbers(1), ckpt_path="bare.ckpt")
    assert torch.equal(module.drawn, expected)


# ---- single keys


@pytest.mark.parametrize("key", ["native_amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin"])
def test_the_scaler_s_state_has_today_s_key(epoch, key):
    state = {"scale": 512.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 4}
    assert files.upgraded({**early(epoch), key: state})["MixedPrecision"] == state


def test_steps_of_several_optimizers_in_one_batch_are_not_batches(epoch):
    old = with_loops(epoch)
    old["global_step"] = 6  # two optimizers
    torch.save({**old, "callbacks": {}}, "old.ckpt")
    _, trainer = train(2, ckpt_path="old.ckpt")
    assert (trainer.global_step, trainer.progress.stepped) == (9, 6)


# ---- names in the file


def test_hyperparameters_of_old_kinds_are_plain(epoch):
    with old_names() as make:
        kind = make("pytorch_lightning.utilities.parsing.AttributeDict", dict)
        stage = make("pytorch_lightning.trainer.states.RunningStage", str)
        stage.__reduce__ = lambda self: (stage, (str(self),))
        torch.save({**late_zero(epoch), "hyper_parameters": kind(width=3, stage=stage("train"))}, "old.ckpt")
    hparams = files.read("old.ckpt")["hyper_parameters"]
    assert (type(hparams), hparams) == (dict, {"width": 3, "stage": RunningStage.TRAINING})
    assert isinstance(hparams["stage"], Enum)


def test_a_class_that_is_no_callback_s_key_is_refused(epoch):
    with old_names() as make:
        torch.save({**early(epoch), "hparams": {"loss": make("their_project.Loss")}}, "old.ckpt")
    with pytest.raises(ForeignCheckpoint, match=r"loading their_project\.Loss in it could run code"):
        files.read("old.ckpt")


def test_an_object_is_refused_and_not_made(epoch):
    with old_names() as make:
        callback = make("their_project.Loss")
        torch.save({**early(epoch), "callbacks": {callback: {"made": callback()}}}, "old.ckpt")
    with pytest.raises(ForeignCheckpoint, match=r"loading their_project\.Loss in it could run code"):
        files.read("old.ckpt")


def test_a_call_in_the_file_is_refused(own_folder):
    class Calling:
        def __reduce__(self) -> Any:
            return (open, ("made.txt", "w"))

    torch.save({"state_dict": {}, "callbacks": {"a": Calling()}}, "old.ckpt")
    with pytest.raises(ForeignCheckpoint, match=r"was refused: loading \w+\.open in it could run code"):
        files.read("old.ckpt")
    assert not (own_folder / "made.txt").exists()


def test_old_classes_are_found_where_the_user_trusts_the_file(epoch, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_lightning"]:  # another test's
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, Finder)])
    with old_names() as make:
        kind = make("pytorch_lightning.utilities.parsing.AttributeDict", dict)
        torch.save({**late_zero(epoch), "hyper_parameters": kind(width=3)}, "old.ckpt")
    assert files.read("old.ckpt", weights_only=False)["hyper_parameters"].width == 3
    assert "pytorch_lightning" not in sys.modules


def test_modules_that_are_missing_stay_missing_where_the_user_trusts_the_file(epoch):
    with old_names() as make:
        torch.save({**early(epoch), "hparams": {"loss": make("their_project.Loss")}}, "old.ckpt")
    with pytest.raises(ModuleNotFoundError, match="their_project"):
        files.read("old.ckpt", weights_only=False)


def test_a_file_of_weights_alone_is_taken_as_it_is():
    torch.save({"layer.weight": torch.ones(1)}, "weights.pt")
    assert files.upgraded(files.read("weights.pt"))["layer.weight"] == 1
    with pytest.raises(ForeignCheckpoint, match="no 'state_dict'"):
        Learning.load_from_checkpoint("weights.pt")
