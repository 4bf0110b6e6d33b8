from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pickle
import sys
from unittest import mock

import pytest
import torch

import fulmen
from fulmen.compat import install
from fulmen.compat.finder import Finder


@pytest.fixture(autouse=True)
def alias():
    install()


def test_every_root_leads_to_the_same_objects():
    import lightning
    import lightning.fabric
    import lightning.pytorch
    import lightning_fabric
    import pytorch_lightning

    assert pytorch_lightning.Trainer is lightning.Trainer is lightning.pytorch.Trainer is fulmen.Trainer
    assert lightning.fabric.seed_everything is lightning_fabric.seed_everything is fulmen.seed_everything


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pytorch_lightning.core.lightning", "LightningModule"),
        ("pytorch_lightning.callbacks.base", "Callback"),
        ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"),
        ("pytorch_lightning.loggers.base", "rank_zero_experiment"),
        ("pytorch_lightning.utilities.seed", "seed_everything"),
        ("pytorch_lightning.utilities.rank_zero", "rank_zero_only"),
        ("pytorch_lightning.trainer.states", "RunningStage"),
        ("lightning.pytorch.utilities.types", "STEP_OUTPUT"),
        ("lightning.fabric.utilities.types", "_PATH"),
        ("lightning_fabric.utilities.rank_zero", "rank_zero_only"),
    ],
)
def test_paths_of_every_era_resolve(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_submodules_can_be_reached_as_attributes():
    import pytorch_lightning as pl

    assert pl.callbacks.ModelCheckpoint is fulmen.callbacks.ModelCheckpoint
    assert pl.callbacks.progress.TQDMProgressBar is fulmen.callbacks.TQDMProgressBar
    assert pl.utilities.rank_zero.rank_zero_only is pl.utilities.rank_zero_only


def test_a_star_import_brings_the_public_names():
    names: dict[str, object] = {}
    exec("from pytorch_lightning.callbacks import *", names)

    assert {"Callback", "EarlyStopping", "ModelCheckpoint", "Timer"} <= set(names)
    assert names["Timer"] is fulmen.callbacks.Timer


def test_a_name_that_comes_later_is_an_import_error_that_says_so():
    with pytest.raises(ImportError, match=r"pytorch_lightning\.loggers\.CometLogger is not part of Fulmen yet"):
        from pytorch_lightning.loggers import CometLogger  # noqa: F401

    with pytest.raises(
        ModuleNotFoundError, match=r"pytorch_lightning\.utilities\.cli is not part of Fulmen yet: the command line"
    ):
        import pytorch_lightning.utilities.cli  # noqa: F401


def test_annotations_for_the_command_line_are_there_without_it():
    import torch
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

    assert OptimizerCallable.__args__[-1] is torch.optim.Optimizer  # type: ignore[attr-defined]
    assert LRSchedulerCallable.__args__[0] is torch.optim.Optimizer  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match=r"LightningCLI is not part of Fulmen yet: the command line"):
        from lightning.pytorch.cli import LightningCLI  # noqa: F401


def test_a_name_that_is_gone_says_since_when():
    with pytest.raises(ImportError, match=r"HorovodStrategy left Lightning in 2\.0"):
        from pytorch_lightning.strategies import HorovodStrategy  # noqa: F401


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ImportError, match=r"Did you mean 'ModelCheckpoint'\?"):
        from pytorch_lightning.callbacks import ModelCheckpont  # noqa: F401


def test_what_is_not_there_is_not_there_for_hasattr_and_find_spec():
    import pytorch_lightning as pl

    assert not hasattr(pl, "tuner")
    assert not hasattr(pl.loggers, "CometLogger")
    assert importlib.util.find_spec("pytorch_lightning.nothing_like_it") is None
    assert importlib.util.find_spec("pytorch_lightning.callbacks") is not None


def test_versions_are_answered():
    import lightning
    import pytorch_lightning

    assert pytorch_lightning.__version__ == lightning.__version__ == "2.6.6"
    for name in ("pytorch-lightning", "pytorch_lightning", "lightning", "lightning_fabric"):
        assert importlib.metadata.version(name) == "2.6.6"


def test_a_pickle_by_an_old_path_finds_todays_class():
    by_old_path = pickle.dumps(fulmen.callbacks.Timer).replace(
        b"\x8c\x16fulmen.callbacks.timer", b"\x8c\x21pytorch_lightning.callbacks.timer"
    )
    by_old_path = by_old_path[:3] + (len(by_old_path) - 11).to_bytes(8, "little") + by_old_path[11:]

    assert pickle.loads(by_old_path) is fulmen.callbacks.Timer


def test_an_object_made_through_an_old_path_is_picklable_and_of_todays_class():
    from pytorch_lightning.callbacks.early_stopping import EarlyStopping

    again = pickle.loads(pickle.dumps(EarlyStopping("val_loss")))

    assert isinstance(again, fulmen.callbacks.EarlyStopping)


def test_a_public_name_can_be_patched_on_an_old_path():
    import pytorch_lightning as pl

    with mock.patch("pytorch_lightning.callbacks.ModelCheckpoint") as patched:
        assert pl.callbacks.ModelCheckpoint is patched
    assert pl.callbacks.ModelCheckpoint is fulmen.callbacks.ModelCheckpoint

    with mock.patch("pytorch_lightning.Trainer.fit", return_value="patched"):
        assert fulmen.Trainer.fit(None) == "patched"
    assert fulmen.Trainer.fit.__name__ == "fit"


def test_reload_keeps_the_module():
    import pytorch_lightning.callbacks as callbacks

    assert importlib.reload(callbacks) is callbacks
    assert callbacks.Callback is fulmen.Callback


def test_a_second_install_changes_nothing():
    install()

    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == 1


def test_what_was_imported_before_is_dropped_with_a_warning(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, Finder)])
    stranger = type(sys)("pytorch_lightning")
    monkeypatch.setitem(sys.modules, "pytorch_lightning", stranger)

    with pytest.warns(UserWarning, match=r"imported before fulmen\.compat\.install"):
        install()
    import pytorch_lightning

    assert pytorch_lightning is not stranger


def test_a_checkpoint_with_objects_by_old_paths_can_be_read(tmp_path):
    from pytorch_lightning.utilities.parsing import AttributeDict

    torch.save({"hyper_parameters": AttributeDict(lr=0.1)}, tmp_path / "old.ckpt")

    assert torch.load(tmp_path / "old.ckpt", weights_only=False)["hyper_parameters"].lr == 0.1


def test_a_name_asked_of_another_module_is_shown_where_it_is():
    with pytest.raises(ImportError, match=r"'TensorBoardLogger': it is in lightning\.pytorch\.loggers\."):
        from lightning.pytorch import TensorBoardLogger  # noqa: F401
