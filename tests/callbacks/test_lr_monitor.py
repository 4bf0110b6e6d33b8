"""LearningRateMonitor."""

from __future__ import annotations

import pytest
import torch
from callbacks.small import Scored, fit
from torch import optim
from torch.optim.lr_scheduler import StepLR

from fulmen.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from fulmen.errors import MisconfigurationException
from fulmen.loggers.base import Logger


class Rows(Logger):
    """Keeps the rows that have a learning rate."""

    name, version, experiment = "rows", 0, None

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None):
        if "score" not in metrics:
            self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs): ...


class Model(Scored):
    def __init__(self, configure) -> None:
        super().__init__([1.0] * 99)
        self.other = torch.nn.Linear(2, 2)
        self.third = torch.nn.Linear(2, 2)
        self.configure = configure

    def configure_optimizers(self):
        return self.configure(self)


class Manual(Model):
    def __init__(self, configure) -> None:
        super().__init__(configure)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(sum(p.sum() for p in self.parameters()))
            optimizer.step()


def rows(model, trainer=None, **options):
    monitor, logger = LearningRateMonitor(**options), Rows()
    defaults = {"max_epochs": 2, "log_every_n_steps": 2, "limit_val_batches": 0}
    trainer = fit(model, monitor, logger=logger, **{**defaults, **(trainer or {})})
    return logger.rows, monitor, trainer


def sgd(interval, **options):
    def configure(module):
        optimizer = optim.SGD(module.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": StepLR(optimizer, 1, 0.5), "interval": interval, **options},
        }

    return Model(configure)


def test_a_rate_is_logged_as_often_as_it_changes():
    steps, monitor, _ = rows(sgd("step"))
    epochs, _, _ = rows(sgd("epoch"))

    assert steps == [(1, {"lr-SGD": 0.5}), (3, {"lr-SGD": 0.125}), (5, {"lr-SGD": 0.03125}), (7, {"lr-SGD": 0.0078125})]
    assert epochs == [(0, {"lr-SGD": 1.0}), (4, {"lr-SGD": 0.5})]
    assert monitor.lrs == {"lr-SGD": [0.5, 0.125, 0.03125, 0.0078125]}


def test_the_interval_can_be_chosen():
    assert [step for step, _ in rows(sgd("epoch"), logging_interval="step")[0]] == [1, 3, 5, 7]
    assert [step for step, _ in rows(sgd("step"), logging_interval="epoch")[0]] == [0, 4]


def test_without_a_scheduler_it_is_logged_at_both():
    found, _, _ = rows(Model(lambda module: optim.Adam(module.parameters(), lr=0.1)))

    assert [step for step, _ in found] == [0, 1, 3, 4, 5, 7]


def test_the_step_is_that_of_the_metrics_row():
    class Logs(Model):
        def training_step(self, batch, batch_idx):
            self.log("score", 1.0)
            return super().training_step(batch, batch_idx)

    class All(Rows):
        def log_metrics(self, metrics, step=None):
            self.rows.append((step, *metrics))

    logger = All()
    model = Logs(lambda module: optim.SGD(module.parameters(), lr=0.1))
    fit(model, LearningRateMonitor("step"), logger=logger, max_epochs=1, log_every_n_steps=2, limit_val_batches=0)

    assert [row[:2] for row in logger.rows] == [(1, "lr-SGD"), (1, "score"), (3, "lr-SGD"), (3, "score")]


def test_batches_that_accumulate_log_once():
    found, _, _ = rows(sgd("step"), trainer={"accumulate_grad_batches": 2, "log_every_n_steps": 1})

    assert [step for step, _ in found] == [0, 1, 2, 3]


def test_a_run_that_goes_on_within_an_epoch_and_a_step_writes_no_row_twice(tmp_path):
    class Ends(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.progress.batches == 5:
                trainer.save_checkpoint(tmp_path / "last.ckpt")
                raise InterruptedError

    def train(logger, *callbacks):
        options = {"accumulate_grad_batches": 2, "log_every_n_steps": 1, "max_epochs": 2, "enable_checkpointing": True}
        model = Model(lambda module: optim.SGD(module.parameters(), lr=1.0))
        saves = ModelCheckpoint(tmp_path, save_top_k=0)
        fit(model, saves, LearningRateMonitor(), *callbacks, logger=logger, resume="auto", **options)

    whole, ended = Rows(), Rows()
    train(whole)
    with pytest.raises(InterruptedError):
        train(ended, Ends())
    train(ended)
    assert len(whole.rows) == 6
    assert ended.rows == whole.rows


def test_momentum_and_weight_decay():
    found, monitor, _ = rows(sgd("epoch"), log_momentum=True, log_weight_decay=True)
    adam, _, _ = rows(Model(lambda m: optim.Adam(m.parameters(), betas=(0.8, 0.9))), log_momentum=True)

    assert found[0][1] == {"lr-SGD": 1.0, "lr-SGD-momentum": 0.9, "lr-SGD-weight_decay": 0.1}
    assert monitor.last_momentum_values == {"lr-SGD-momentum": 0.9}
    assert monitor.last_weight_decay_values == {"lr-SGD-weight_decay": 0.1}
    assert adam[0][1] == {"lr-Adam": 1e-3, "lr-Adam-momentum": 0.8}


def test_an_optimizer_without_momentum_is_told():
    with pytest.warns(UserWarning, match="no momentum"):
        found, _, _ = rows(Model(lambda m: optim.Adagrad(m.parameters())), log_momentum=True)

    assert found[0][1]["lr-Adagrad-momentum"] == 0


def test_parameter_groups_have_their_names_or_numbers():
    def groups(*names):
        return Model(lambda module: optim.SGD(
            [{"params": layer.parameters(), **({"name": name} if name else {})}
             for name, layer in zip(names, (module.layer, module.other), strict=True)], lr=0.1,
        ))  # fmt: skip

    assert list(rows(groups(None, None))[0][0][1]) == ["lr-SGD/pg1", "lr-SGD/pg2"]
    assert list(rows(groups("a", None))[0][0][1]) == ["lr-SGD/a", "lr-SGD/pg2"]
    with pytest.raises(MisconfigurationException, match=r"lr-SGD.*different name"):
        rows(groups("a", "a"))


def test_optimizers_of_one_class_are_counted():
    def three(module):
        return [optim.Adam(layer.parameters()) for layer in (module.layer, module.other, module.third)]

    def named(module):
        first, second, third = three(module)
        return [first, second, third], [{"scheduler": StepLR(second, 1), "name": "mine"}]

    assert list(rows(Manual(three))[0][0][1]) == ["lr-Adam", "lr-Adam-1", "lr-Adam-2"]
    assert list(rows(Manual(named))[0][0][1]) == ["mine", "lr-Adam", "lr-Adam-1"]


def test_callbacks_can_read_the_rates():
    _, _, trainer = rows(sgd("epoch"))

    assert trainer.callback_metrics["lr-SGD"] == 0.5


def test_without_a_logger_it_is_an_error():
    with pytest.raises(MisconfigurationException, match="no logger"):
        fit(sgd("step"), LearningRateMonitor())


def test_wrong_interval():
    with pytest.raises(MisconfigurationException, match="logging_interval='batch'"):
        LearningRateMonitor("batch")  # type: ignore[arg-type]


def test_no_optimizer_is_nothing_to_log():
    with pytest.warns(UserWarning, match="no optimizer|configure_optimizers"):
        found, _, _ = rows(Model(lambda module: None))

    assert found == []
