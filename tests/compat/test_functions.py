from __future__ import annotations

import torch
from small import Net, make_trainer, numbers
from torch import nn

import fulmen as L
from fulmen.compat import functions, install, names
from fulmen.compat.loggers import LoggerCollection, TestTubeLogger
from fulmen.demos import BoringModel
from fulmen.loggers import CSVLogger


def test_the_decorators_leave_what_they_decorate():
    class Model(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        @functions.auto_move_data
        def forward(self, x, scale=1.0):
            return self.layer(x) * scale

        @functions.data_loader
        def train_dataloader(self):
            return [1]

    model = Model()
    x = torch.ones(1, 2)

    assert torch.equal(model(x, scale=2.0), model.layer(x) * 2)
    assert model.train_dataloader() == [1]


def test_load_reads_a_checkpoint(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.ckpt")

    assert functions.load(tmp_path / "a.ckpt", map_location="cpu") == {"epoch": 3}
    assert functions.get_filesystem(tmp_path).exists(str(tmp_path / "a.ckpt"))


def test_questions_about_the_surroundings():
    assert functions._module_available("torch.nn")
    assert not functions._module_available("nowhere.at.all")
    assert names.load(names.home("utilities.distributed", "distributed_available"))() is False


def test_flat_hyperparameters_and_the_default_scheduler():
    assert functions._flatten_dict({"a": {"b": 1}, "c": 2}) == {"a/b": 1, "c": 2}
    default = functions._get_default_scheduler_config()
    assert (default["interval"], default["frequency"], default["scheduler"]) == ("epoch", 1, None)


def test_a_collection_writes_to_each_logger(tmp_path):
    both = LoggerCollection([CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")])
    trainer = L.Trainer(
        logger=both, max_epochs=1, limit_train_batches=2, limit_val_batches=0, log_every_n_steps=1, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip

    class Logged(BoringModel):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch)
            self.log("loss", loss)
            return loss

    trainer.fit(Logged())

    assert trainer.logger is both
    assert [type(logger) for logger in both] == [CSVLogger, CSVLogger]
    assert both.name == "a_b"
    for name in "ab":
        assert len((tmp_path / name / "version_0" / "metrics.csv").read_text().splitlines()) == 3


def test_the_logger_of_test_tube_writes_tensorboard_files(tmp_path):
    logger = TestTubeLogger(str(tmp_path), name="run", description="mine", version=2)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")

    assert list((tmp_path / "run" / "version_2").glob("events.out.tfevents.*"))

    silent = TestTubeLogger(str(tmp_path), name="debug", debug=True)
    silent.log_metrics({"loss": 1.0}, step=0)
    assert not (tmp_path / "debug").exists()


def test_a_logger_written_for_the_old_base_class_gets_everything():
    install()
    from pytorch_lightning.loggers import LightningLoggerBase
    from pytorch_lightning.loggers.base import rank_zero_experiment
    from pytorch_lightning.utilities import rank_zero_only

    class Rows(LightningLoggerBase):
        def __init__(self):
            super().__init__()
            self.rows, self.params, self.status = [], None, None

        @property
        @rank_zero_experiment
        def experiment(self):
            return self.rows

        @property
        def name(self):
            return "rows"

        @property
        def version(self):
            return 0

        @rank_zero_only
        def log_hyperparams(self, params):
            self.params = dict(params)

        @rank_zero_only
        def log_metrics(self, metrics, step):
            self.experiment.append((step, metrics["loss"]))

        @rank_zero_only
        def finalize(self, status):
            super().finalize(status)
            self.status = status

    class Logged(Net):
        def __init__(self, lr=0.0, width=3):
            super().__init__(lr)
            self.save_hyperparameters()

        def training_step(self, batch, batch_idx):
            loss = self(batch).mean()
            self.log("loss", loss)
            return loss

    logger = Rows()
    make_trainer(logger=logger, log_every_n_steps=1).fit(Logged(), numbers(2))

    assert logger.rows == [(0, 0.0), (1, 2.0)]
    assert (logger.params, logger.status) == ({"lr": 0.0, "width": 3}, "success")
