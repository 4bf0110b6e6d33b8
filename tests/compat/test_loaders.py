"""What `trainer.train_dataloader`, `trainer.val_dataloaders` and `trainer.logger` once were."""

from __future__ import annotations

from typing import Any

import pytest
from compat.trainers import QUIET, SMALL
from torch import ones
from torch.utils.data import DataLoader

import fulmen.compat
from fulmen.demos import BoringModel, RandomDataset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def pl() -> Any:
    fulmen.compat.install()
    import pytorch_lightning

    return pytorch_lightning


def test_loaders_were_listed_and_wrapped(pl):
    class Asks(BoringModel):
        def on_train_start(self):
            loader = self.trainer.train_dataloader
            self.found = [loader.dataset.datasets, loader.loaders.dataset, self.trainer.val_dataloaders[0].dataset]

    module, data = Asks(), [DataLoader(RandomDataset(32, 4)) for _ in range(2)]
    pl.Trainer(**QUIET, **SMALL).fit(module, *data)

    assert module.found == [data[0].dataset, data[0].dataset, data[1].dataset]


def test_several_training_loaders_are_reached_by_their_names(pl):
    class Asks(BoringModel):
        def training_step(self, batch, batch_idx):
            return self.layer(batch["a"]).sum()

        def on_train_start(self):
            loader = self.trainer.train_dataloader
            self.found = loader.dataset.datasets, loader.loaders

    module, data = Asks(), {name: DataLoader(ones(4, 32)) for name in "ab"}
    pl.Trainer(**QUIET, **SMALL, multiple_trainloader_mode="min_size").fit(module, data)

    datasets, loaders = module.found
    assert datasets["a"] is data["a"].dataset
    assert loaders["b"] is data["b"]
    assert module.trainer.train_dataloader["a"] is data["a"]


def test_several_loggers_are_reached_through_the_first(pl, tmp_path):
    loggers = [pl.loggers.CSVLogger(tmp_path, name=name) for name in "ab"]
    trainer = pl.Trainer(**QUIET | SMALL | {"logger": loggers})

    assert trainer.logger is loggers[0]
    assert [*trainer.logger] == loggers
    assert trainer.logger[1] is loggers[1]
    assert [*pl.Trainer(**QUIET | SMALL | {"logger": loggers[:1]}).logger] == loggers[:1]


def test_who_imports_the_class_of_several_loggers_gets_one(pl, tmp_path):
    from pytorch_lightning.loggers import LoggerCollection

    loggers = [pl.loggers.CSVLogger(tmp_path, name=name) for name in "ab"]
    trainer = pl.Trainer(**QUIET | SMALL | {"logger": loggers})

    assert isinstance(trainer.logger, LoggerCollection)
    assert [*trainer.logger] == trainer.loggers == loggers


def test_loggers_of_ones_own_had_helpers(pl):
    from argparse import Namespace

    from pytorch_lightning.loggers import LightningLoggerBase

    params = LightningLoggerBase._convert_params(Namespace(a=1, b={"c": None, "d": [2]}))
    flat = LightningLoggerBase._flatten_dict(params)

    assert flat == {"a": 1, "b/c": None, "b/d": [2]}
    assert LightningLoggerBase._sanitize_params(flat) == {"a": 1, "b/c": "None", "b/d": "[2]"}
