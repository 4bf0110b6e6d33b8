from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import pytest
from small import make_trainer

import fulmen as L
from fulmen.callbacks import EarlyStopping, ModelCheckpoint
from fulmen.compat import constructors
from fulmen.demos import BoringModel
from fulmen.strategy import DDPStrategy


@pytest.fixture(autouse=True)
def reached_by_an_old_name():
    for kind in (ModelCheckpoint, EarlyStopping, DDPStrategy):
        constructors.complete(kind)


def quiet(kind, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(*args, **kwargs)


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [("out/{epoch}-{loss:.2f}", "out", "{epoch}-{loss:.2f}"), ("out/", "out", "{epoch}"), ("best", ".", "best")],
)
def test_filepath_is_a_folder_and_a_template(path, folder, name):
    kept = quiet(ModelCheckpoint, filepath=path)

    assert (kept.dirpath, kept.filename) == (os.path.abspath(folder), name)


def test_filepath_of_a_folder_that_is_there(tmp_path):
    assert quiet(ModelCheckpoint, filepath=str(tmp_path)).dirpath == str(tmp_path)


def test_save_best_only_with_a_folder(tmp_path):
    best, every = (quiet(ModelCheckpoint, filepath=str(tmp_path / "w"), save_best_only=one) for one in (True, False))

    assert (best.dirpath, best.save_top_k, every.save_top_k) == (str(tmp_path / "w"), 1, -1)


def test_a_template_as_the_first_argument_was_filepath():
    kept = quiet(ModelCheckpoint, "out/{epoch}", "val_loss", True)

    assert (kept.dirpath, kept.filename, kept.monitor, kept.verbose) == (
        os.path.abspath("out"),
        "{epoch}",
        "val_loss",
        True,
    )


def test_todays_arguments_are_as_ever(recwarn):
    kept = ModelCheckpoint("out", "{epoch}", monitor="x", mode="max")

    assert (kept.dirpath, kept.filename, kept.monitor, kept.mode) == (os.path.abspath("out"), "{epoch}", "x", "max")
    assert not recwarn


@pytest.mark.parametrize("name", ["period", "every_n_val_epochs"])
def test_period_saves_every_n_epochs(name, tmp_path):
    with pytest.warns(UserWarning, match=f"{name}=2.* is every_n_epochs= today"):
        kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, **{name: 2})
    L.Trainer(
        max_epochs=4, callbacks=[kept], limit_train_batches=1, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(BoringModel())  # fmt: skip

    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["epoch=1.ckpt", "epoch=3.ckpt"]


def test_prefix_stands_before_the_name():
    assert quiet(ModelCheckpoint, prefix="mine").filename == "mine-{epoch}-{step}"
    assert quiet(ModelCheckpoint, filename="{epoch}", prefix="mine").filename == "mine-{epoch}"
    joined = quiet(ModelCheckpoint, filepath="there/{epoch}", prefix="mine", save_last=True)
    assert (joined.filename, joined.CHECKPOINT_NAME_LAST) == ("mine{epoch}", "minelast")


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("val_acc", "max"), ("fmeasure", "max")])
def test_mode_auto_goes_by_the_name(monitor, mode):
    assert ModelCheckpoint(monitor=monitor, mode="auto").mode == mode
    assert EarlyStopping(monitor, mode="auto").mode == mode


def test_early_stopping_watched_val_loss():
    assert EarlyStopping().monitor == "val_loss"


def test_a_ddp_plugin_was_told_what_the_trainer_knows():
    assert quiet(DDPStrategy, num_nodes=1, sync_batchnorm=False, find_unused_parameters=True).name == "ddp"


def test_the_strategy_that_spawns_is_a_class_of_its_own():
    spawning = quiet(constructors.DDPSpawnStrategy, find_unused_parameters=False)

    assert (spawning.start_method, spawning.ddp_kwargs) == ("spawn", {"find_unused_parameters": False})
    assert isinstance(DDPStrategy(start_method="spawn"), constructors.DDPSpawnStrategy)
    assert not isinstance(DDPStrategy(), constructors.DDPSpawnStrategy)


def test_a_subclass_and_a_pickle_work():
    class Mine(ModelCheckpoint):
        def __init__(self, **kwargs):
            super().__init__(filepath="out/{epoch}", **kwargs)

    assert Path(quiet(Mine).dirpath).name == "out"
    assert pickle.loads(pickle.dumps(quiet(ModelCheckpoint, filepath="out/x"))).filename == "x"


def test_the_best_beside_filepath_were_those_of_val_loss():
    assert quiet(ModelCheckpoint, filepath="out/{epoch}", save_top_k=3).monitor == "val_loss"
    assert quiet(ModelCheckpoint, "out/{epoch}", "acc", save_top_k=3).monitor == "acc"
    assert quiet(ModelCheckpoint, filepath="out/{epoch}", save_top_k=-1).monitor is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_on_save_checkpoint_gave_a_subclass_the_state(tmp_path):
    class Own(ModelCheckpoint):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            return {**super().on_save_checkpoint(trainer, pl_module, checkpoint), "own": 3}

        def on_load_checkpoint(self, trainer, pl_module, callback_state):
            self.own = callback_state["own"], callback_state["best_model_path"]

    options = {"limit_train_batches": 1, "limit_val_batches": 0, "enable_checkpointing": True}
    make_trainer(callbacks=[Own(tmp_path, "{epoch}")], **options).fit(BoringModel())
    resumed = Own(tmp_path, "{epoch}")
    make_trainer(max_epochs=2, callbacks=[resumed], **options).fit(BoringModel(), ckpt_path=tmp_path / "epoch=0.ckpt")

    assert resumed.own == (3, str(tmp_path / "epoch=0.ckpt"))


def test_the_oldest_names_of_what_was_kept(tmp_path):
    kept = ModelCheckpoint(tmp_path, "{epoch}", monitor="x", save_top_k=2)

    class Falling(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("x", 5.0 - self.current_epoch)

    L.Trainer(
        max_epochs=3, callbacks=[kept], limit_train_batches=1, limit_val_batches=1, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Falling())  # fmt: skip

    assert (Path(kept.kth_best_model).name, kept.best) == ("epoch=1.ckpt", 3.0)


def test_the_check_of_early_stopping_was_told_the_module():
    class Own(EarlyStopping):
        def on_train_epoch_end(self, trainer, pl_module):
            self._run_early_stopping_check(trainer, pl_module)

        def on_validation_end(self, trainer, pl_module):
            pass

    class Constant(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0)

    stops = quiet(Own, patience=2)
    limits = {"limit_train_batches": 1, "limit_val_batches": 1}
    make_trainer(max_epochs=5, num_sanity_val_steps=0, callbacks=[stops], **limits).fit(Constant())

    assert stops.stopped_epoch == 2
