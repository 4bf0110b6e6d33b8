"""Loggers of older programs: several as a list, arguments of their base class; and limits set on the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
from compat.programs import lines
from compat.trainers import QUIET, SMALL

import fulmen.compat
from fulmen.demos import BoringModel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PROGRAM = """
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel
    from pytorch_lightning.loggers import CSVLogger

    class Model(BoringModel):
        def on_train_start(self):
            {use}

    loggers = [CSVLogger("logs", name=name) for name in "ab"]
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, accelerator="cpu", logger=loggers,
                         enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer.fit(Model())
    print(type(trainer.logger).__name__)
"""


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        ("print(self.logger.experiment[1].log_dir)", "LoggerCollection"),
        ("[print(one.log_dir) for one in self.trainer.logger.experiment][1]", "LoggerCollection"),
        ("several = self.logger.experiment; print(several[1].log_dir)", "LoggerCollection"),
        ("one, other = self.logger.experiment; print(other.log_dir)", "LoggerCollection"),
        ("print(self.loggers[1].experiment.log_dir)", "CSVLogger"),
    ],
)
def test_a_program_that_takes_the_experiment_for_a_list_has_all_loggers_in_one(tmp_path, monkeypatch, use, kind):
    monkeypatch.chdir(tmp_path)

    *_, second, last = lines(PROGRAM.format(use=use))

    assert Path(second) == Path("logs/b/version_0")
    assert last == kind


@pytest.fixture
def pl():
    fulmen.compat.install()
    import pytorch_lightning

    return pytorch_lightning


def test_the_base_class_of_loggers_took_functions_that_aggregate(pl):
    from pytorch_lightning.loggers import LightningLoggerBase

    class Mine(LightningLoggerBase):
        name, version = "mine", 1

        def __init__(self):
            super().__init__(agg_key_funcs={"loss": max}, agg_default_func=sum)
            self.rows = []

        def log_metrics(self, metrics, step=None):
            self.rows.append(metrics)

        def log_hyperparams(self, params):
            pass

    logger = Mine()
    pl.Trainer(**QUIET | SMALL | {"logger": logger, "log_every_n_steps": 1}).fit(BoringModel())

    assert [row["epoch"] for row in logger.rows if "epoch" in row] == [0] * len(logger.rows)


def test_limits_were_set_on_the_trainer(pl):
    class Longer(BoringModel):
        def on_train_epoch_end(self):
            if self.trainer.max_epochs == 2:
                self.trainer.max_epochs = 3

    trainer = pl.Trainer(**QUIET | SMALL)
    trainer.max_epochs = 2
    model = Longer()
    trainer.fit(model)
    assert (trainer.max_epochs, trainer.current_epoch) == (3, 3)

    trainer.max_epochs = 5
    trainer.fit(model)
    assert (trainer.current_epoch, trainer.global_step) == (5, 10)
