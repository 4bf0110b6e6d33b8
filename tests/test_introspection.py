from __future__ import annotations

import inspect
from argparse import Namespace
from types import SimpleNamespace

import pytest

import fulmen as L
from fulmen import introspection
from fulmen.demos import BoringModel


def test_what_is_overridden():
    model = BoringModel()

    assert introspection.is_overridden("training_step", model)
    assert not introspection.is_overridden("on_fit_start", model)
    assert not introspection.is_overridden("no_such_hook", model)
    assert introspection.is_overridden("training_step", model, parent=L.LightningModule)
    with pytest.raises(ValueError, match="is_overridden needs parent="):
        introspection.is_overridden("anything", object())


def test_what_cannot_be_pickled_is_removed():
    hparams = {"a": 1, "f": lambda: None}
    namespace = Namespace(**hparams)
    introspection.clean_namespace(hparams)
    introspection.clean_namespace(namespace)

    assert hparams == vars(namespace) == {"a": 1}


class Base:
    def __init__(self, a, *args, b=3, **kwargs):
        super().__init__()
        self.own = introspection.get_init_args(inspect.currentframe())
        self.all = introspection.collect_init_args(inspect.currentframe(), [])


class Derived(Base):
    def __init__(self, z, a=9):
        super().__init__(a, q=5)


def test_arguments_of_the_constructors_that_run():
    assert introspection.parse_class_init_keys(Base) == ("self", "args", "kwargs")
    assert Base(1, 2).own == {"a": 1, "b": 3}
    assert Derived(7).own == {"a": 9, "b": 3, "q": 5}
    assert Derived(7).all == [{"a": 9, "b": 3, "q": 5}, {"z": 7, "a": 9}]


class Saving(L.LightningModule):
    def __init__(self, width=3, depth=2):
        super().__init__()
        introspection.save_hyperparameters(self, ignore="depth")


def test_hyperparameters_are_saved_by_the_function_too():
    assert dict(Saving(5).hparams) == {"width": 5}


def test_attributes_of_a_module_its_hyperparameters_and_its_data():
    model = Saving(5)
    model.lr = 0.1
    model.__dict__["_trainer"] = SimpleNamespace(datamodule=SimpleNamespace(batch_size=8, hparams={}))

    assert introspection.lightning_hasattr(model, "width")
    assert introspection.lightning_getattr(model, "batch_size") == 8
    introspection.lightning_setattr(model, "width", 6)
    introspection.lightning_setattr(model, "lr", 0.2)
    assert (model.hparams.width, model.lr) == (6, 0.2)
    with pytest.raises(AttributeError, match="Neither Saving nor its hparams nor the datamodule has 'nothing'"):
        introspection.lightning_getattr(model, "nothing")
