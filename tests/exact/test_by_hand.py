"""Training beside the loop that one writes by hand: the same weights after every step, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from small import make_trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L

EPOCHS = 3


def loader(shuffle: bool = True, samples: int = 34) -> DataLoader[Any]:
    """Batches of 8, the last of 2."""
    points = torch.rand(samples, 4, generator=torch.Generator().manual_seed(1))
    target = (points.sum(1) > 2).long()
    return DataLoader(TensorDataset(points, target), batch_size=8, shuffle=shuffle)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def copies(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.state_dict().values()]


class Classifier(L.LightningModule):
    def __init__(self, configure: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.configure, self.seen = network(), configure, []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        points, target = batch
        loss = F.cross_entropy(self.net(points), target)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.configure(self.net.parameters())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(copies(self.net))


class Validated(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


def trained(configure: Callable[[Any], Any], val: Any = None, **options: Any) -> list[list[Tensor]]:
    module = Classifier(configure) if val is None else Validated(configure)
    torch.manual_seed(5)
    make_trainer(max_epochs=EPOCHS, **options).fit(module, loader(), val)
    return module.seen


def by_hand(
    optimizer_of: Callable[[Any], Any],
    *,
    accumulate: int = 1,
    clip: Callable[[Any], Any] = lambda parameters: None,
    after_step: Callable[[], Any] = lambda: None,
    after_epoch: Callable[[nn.Module], Any] = lambda net: None,
    net: nn.Module | None = None,
    autocast: torch.dtype | None = None,
) -> list[list[Tensor]]:
    net, seen = net or network(), []
    dtype = next(net.parameters()).dtype
    optimizer = optimizer_of(net.parameters())
    torch.manual_seed(5)
    for _ in range(EPOCHS):
        batches: Iterable[Any] = loader()
        for idx, (points, target) in enumerate(batches):
            if idx % accumulate == 0:
                optimizer.zero_grad()
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                loss = F.cross_entropy(net(points.to(dtype)), target)
            (loss / accumulate).backward()
            if (idx + 1) % accumulate == 0 or idx == 4:
                clip(net.parameters())
                optimizer.step()
                after_step()
            seen.append(copies(net))
        after_epoch(net)
    return seen


def assert_equal(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    assert len(ours) == len(theirs) == EPOCHS * 5
    for step, pair in enumerate(zip(ours, theirs, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True)), f"other weights after step {step}"


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}
ADAM = OPTIMIZERS["adam"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    assert_equal(trained(OPTIMIZERS[name]), by_hand(OPTIMIZERS[name]))


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulation_ends_with_the_epoch(accumulate):
    assert_equal(trained(ADAM, accumulate_grad_batches=accumulate), by_hand(ADAM, accumulate=accumulate))


def test_accumulation_over_more_batches_than_there_are_is_told():
    with pytest.warns(UserWarning, match="accumulate_grad_batches=8 is more than the 5 batches"):
        ours = trained(ADAM, accumulate_grad_batches=8)
    assert_equal(ours, by_hand(ADAM, accumulate=8))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "clip"),
    [
        ("norm", lambda p: nn.utils.clip_grad_norm_(p, 0.05)),
        ("value", lambda p: nn.utils.clip_grad_value_(p, 0.05)),
    ],
)
def test_clipping(algorithm, clip, accumulate):
    ours = trained(ADAM, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm, accumulate_grad_batches=accumulate)
    assert_equal(ours, by_hand(ADAM, clip=clip, accumulate=accumulate))


@pytest.mark.parametrize(
    ("precision", "made", "autocast"),
    [
        ("64-true", torch.float64, None),
        ("bf16-true", torch.bfloat16, None),
        ("16-true", torch.float16, None),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_precisions(precision, made, autocast, accumulate):
    sgd = OPTIMIZERS["sgd"]
    ours = trained(sgd, precision=precision, accumulate_grad_batches=accumulate)
    assert_equal(ours, by_hand(sgd, net=network().to(made), autocast=autocast, accumulate=accumulate))


def test_schedulers_by_step_and_by_epoch_together():
    made: list[Any] = []

    def configure(parameters: Any) -> Any:
        optimizer = ADAM(parameters)
        cycle = lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, step_size_up=3, cycle_momentum=False)
        made[:] = [cycle, lr_scheduler.ExponentialLR(optimizer, 0.5)]
        return [optimizer], [{"scheduler": made[0], "interval": "step", "frequency": 2}, made[1]]

    batches: list[None] = []

    def after_step() -> None:
        batches.append(None)
        if len(batches) % 2 == 0:
            made[0].step()

    def after_epoch(net: nn.Module) -> None:
        batches.clear()
        made[1].step()

    ours = trained(configure)
    assert_equal(
        ours, by_hand(lambda parameters: configure(parameters)[0][0], after_step=after_step, after_epoch=after_epoch)
    )


def test_reduce_on_plateau_follows_the_validation():
    val, made = loader(shuffle=False, samples=16), []

    def configure(parameters: Any) -> Any:
        optimizer = ADAM(parameters)
        made[:] = [lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": made[0], "monitor": "val_loss"}}

    def validate(net: nn.Module) -> None:
        net.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(net(points), target) for points, target in val]
        net.train()
        made[0].step(torch.stack(losses).mean())

    ours = trained(configure, val)
    assert made[0].optimizer.param_groups[0]["lr"] < 0.01
    assert_equal(ours, by_hand(lambda parameters: configure(parameters)["optimizer"], after_epoch=validate))


def test_an_optimizer_that_calls_its_closure_many_times():
    lbfgs = lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4)  # noqa: E731
    net, seen = network(), []
    optimizer = lbfgs(net.parameters())
    torch.manual_seed(5)
    for _ in range(EPOCHS):
        for points, target in loader():

            def closure(points: Tensor = points, target: Tensor = target) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(points), target)
                loss.backward()
                return loss

            optimizer.step(closure)
            seen.append(copies(net))
    assert_equal(trained(lbfgs), seen)
