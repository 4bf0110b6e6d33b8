"""configure_optimizers in all its forms; when schedulers step, and on what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, make_trainer, numbers
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

EPOCHS = "1 1 1 .5 | .5 .5 .5 .25 | .25 .25 .25 .125 |"
SAME = "1 1 1 1 | 1 1 1 1 | 1 1 1 1 |"


class Configured(Net):
    """Writes down the learning rate behind each batch, and in the validation at the epoch's end."""

    def __init__(self, configure: Any) -> None:
        super().__init__()
        self.configure, self.seen = configure, []

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train", float(batch_idx))
        return self(batch).mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", 1.0)

    def on_train_epoch_end(self) -> None:
        self.seen.append(-1.0)


def rates(configure: Any, **options: Any) -> list[float]:
    module = Configured(configure)
    make_trainer(**{"max_epochs": 3, **options}).fit(module, numbers(4), numbers(1))
    return module.seen


def read(line: str) -> list[float]:
    return [-1.0 if word == "|" else float(word) for word in line.split()]


def sgd(module: Any) -> SGD:
    return SGD(module.parameters(), lr=1.0)


def with_scheduler(wrap: Any) -> Any:
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        return wrap(optimizer, StepLR(optimizer, 1, 0.5))

    return configure


def config(**settings: Any) -> Any:
    return with_scheduler(lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s, **settings}})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o, s: ([o], [s]),
        lambda o, s: ([o], s),
        lambda o, s: ([o], {"scheduler": s}),
        lambda o, s: [[o], [s]],
        lambda o, s: {"optimizer": o, "lr_scheduler": s},
        lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s}},
        lambda o, s: ({"optimizer": o, "lr_scheduler": s},),
        lambda o, s: [{"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "epoch", "frequency": 1}}],
    ],
)
def test_an_optimizer_and_its_scheduler_in_every_form(wrap):
    assert rates(with_scheduler(wrap)) == read(EPOCHS)


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: [o], lambda o: (o,), lambda o: {"optimizer": o}])
def test_an_optimizer_alone(wrap):
    assert rates(lambda module: wrap(sgd(module))) == read(SAME)


def test_no_optimizer_is_told_and_nothing_is_trained():
    module = Net()
    module.configure_optimizers = lambda: None
    with pytest.warns(UserWarning, match="optimizer"):
        make_trainer().fit(module, numbers(2))
    assert torch.equal(module.layer.weight, Net().layer.weight)


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"interval": "step"}, {"max_epochs": 1}, ".5 .25 .125 .0625 |"),
        ({"interval": "step", "frequency": 3}, {}, "1 1 .5 .5 | .5 .5 .25 .25 | .25 .25 .125 .125 |"),
        (
            {"interval": "step", "frequency": 2},
            {"max_epochs": 1, "accumulate_grad_batches": 2},
            "1 .5 .5 .25 |",
        ),
        ({"interval": "step"}, {"max_epochs": 1, "accumulate_grad_batches": 2}, "1 .5 .5 .25 |"),
        ({"frequency": 2}, {}, "1 1 1 1 | 1 1 1 .5 | .5 .5 .5 .5 |"),
        ({"monitor": "val", "strict": False, "name": "mine"}, {}, EPOCHS),
        ({}, {"max_steps": 6}, "1 1 1 .5 | .5 .5 |"),
    ],
)
def test_when_a_scheduler_steps(settings, options, expected):
    assert rates(config(**settings), **options) == read(expected)


def test_several_schedulers_step_one_after_another():
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        by_step, by_epoch = StepLR(optimizer, 2, 0.5), StepLR(optimizer, 1, 0.1)
        return [optimizer], [{"scheduler": by_step, "interval": "step"}, by_epoch]

    assert rates(configure, max_epochs=1) == pytest.approx(read("1 .5 .5 .025 |"))


def test_schedulers_that_ask_for_the_number_of_steps():
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        total = module.trainer.estimated_stepping_batches
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": OneCycleLR(optimizer, 1.0, total_steps=total), "interval": "step"},
        }

    seen = rates(configure)
    assert max(seen) > 0.9
    assert seen[-3] == pytest.approx(0.0, abs=1e-4)


def test_schedulers_made_of_schedulers():
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        return [optimizer], [
            SequentialLR(optimizer, [ConstantLR(optimizer, 0.5, 2), ExponentialLR(optimizer, 0.5)], [2])
        ]

    assert rates(configure) == read(".5 .5 .5 .5 | .5 .5 .5 1 | 1 1 1 .5 |")


# ---- ReduceLROnPlateau


def plateau(**settings: Any) -> Any:
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **settings}}

    return configure


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"monitor": "val"}, {}, "1 1 1 1 | 1 1 1 1 | .5 .5 .5 .5 |"),
        ({"monitor": "train"}, {}, "1 1 1 1 | 1 1 1 1 | .5 .5 .5 .5 |"),
        ({"monitor": "train", "interval": "step"}, {"max_epochs": 1}, "1 1 .5 .25 |"),
        ({"monitor": "val"}, {"val_check_interval": 2}, "1 1 1 1 | 1 1 1 1 | .5 .5 .5 .5 |"),
        ({"monitor": "val", "frequency": 2}, {"max_epochs": 5}, f"{SAME} 1 1 1 1 | .5 .5 .5 .5 |"),
        ({"monitor": "val"}, {"max_steps": 10}, "1 1 1 1 | 1 1 1 1 | .5 .5 |"),
    ],
)
def test_when_a_plateau_is_looked_for(settings, options, expected):
    assert rates(plateau(**settings), **options) == read(expected)


def test_a_monitor_beside_the_scheduler():
    def configure(module: Any) -> Any:
        optimizer = sgd(module)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val"}

    assert rates(configure) == read("1 1 1 1 | 1 1 1 1 | .5 .5 .5 .5 |")


def test_a_monitor_that_is_missing_is_an_error_or_told_and_skipped():
    with pytest.raises(ValueError, match=r"'nope'.*'train'"):
        rates(plateau(monitor="nope"))
    with pytest.warns(UserWarning, match="nope"):
        assert rates(plateau(monitor="nope", strict=False)) == read(SAME)


# ---- refused


@pytest.mark.parametrize(
    ("configure", "words"),
    [
        (lambda m: 3, "configure_optimizers"),
        (lambda m: SGD, "configure_optimizers"),
        (lambda m: StepLR(sgd(m), 1), "configure_optimizers"),
        (lambda m: {"lr_scheduler": StepLR(sgd(m), 1)}, "optimizer"),
        (lambda m: [sgd(m), sgd(m)], "automatic_optimization"),
        (lambda m: ([sgd(m)], [StepLR(sgd(m), 1)]), "optimizer"),
        (plateau(), "monitor"),
        (config(interval="batch"), "'batch'"),
        (config(frequency=0), "frequency"),
        (config(freqency=2), "'frequency'"),
    ],
)
def test_what_no_form_allows_is_told_before_training(configure, words):
    module = Configured(configure)
    with pytest.raises((TypeError, ValueError), match=words):
        make_trainer().fit(module, numbers(2), numbers(1))
    assert module.seen == []


@pytest.mark.parametrize(
    ("configure", "given", "expected"),
    [
        (lambda: config(interval="step"), (), "1 .5 .5 .5 | .5 .25 .25 .25 |"),
        (lambda: plateau(), (1.0,), "1 1 1 1 | 1 .5 .5 .5 |"),  # nobody has to name what it watches
    ],
)
def test_schedulers_of_manual_optimization_are_the_users(configure, given, expected):
    class Manual(Configured):
        def __init__(self, configure: Any) -> None:
            super().__init__(configure)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self(batch).mean())
            optimizer.step()
            if batch_idx == 1:
                self.lr_schedulers().step(*given)

    module = Manual(configure())
    make_trainer(max_epochs=2).fit(module, numbers(4), numbers(1))
    assert module.seen == read(expected)


def test_a_step_of_ones_own_decides_about_warm_up():
    class WarmedUp(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer.step(closure=optimizer_closure)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (self.trainer.global_step + 1)

    module = WarmedUp(lr=0.0)
    make_trainer().fit(module, numbers(4))
    by_hand = Net()
    optimizer = SGD(by_hand.parameters(), lr=0.0)
    for step, batch in enumerate(numbers(4)):
        optimizer.zero_grad()
        by_hand(batch).mean().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1 * (step + 1)
    assert torch.equal(module.layer.weight, by_hand.layer.weight)
