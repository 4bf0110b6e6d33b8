"""Several optimizers and several loaders beside loops written by hand, and real digits to a stated result."""

from __future__ import annotations

from itertools import chain, cycle, islice
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from small import make_trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L

EPOCHS = 3


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- two optimizers, in the module's own hands


class GAN(L.LightningModule):
    """Learns to draw from a normal distribution around 3."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        self.discriminator = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))

    def configure_optimizers(self) -> Any:
        made = [Adam(self.generator.parameters(), 0.01), Adam(self.discriminator.parameters(), 0.01)]
        return made, [lr_scheduler.ExponentialLR(optimizer, 0.99) for optimizer in made]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        g, d = self.optimizers()
        real = batch[0]
        noise = torch.randn(len(real), 2)

        self.toggle_optimizer(d)
        loss = judged(self.discriminator(real), 1) + judged(self.discriminator(self.generator(noise).detach()), 0)
        d.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(d, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        d.step()
        self.untoggle_optimizer(d)

        if batch_idx % 2 == 0:
            with self.toggled_optimizer(g):
                loss = judged(self.discriminator(self.generator(noise)), 1)
                assert all(p.requires_grad is False for p in self.discriminator.parameters())
                g.zero_grad()
                self.manual_backward(loss)
                g.step()
        if self.trainer.is_last_batch:
            for scheduler in self.lr_schedulers():
                scheduler.step()


def judged(found: Tensor, real: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(found, torch.full_like(found, real))


def samples() -> DataLoader[Any]:
    drawn = 3 + torch.randn(320, 1, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(drawn), batch_size=16, shuffle=True)


def gan_by_hand(epochs: int) -> GAN:
    gan = GAN()
    (g, d), schedulers = gan.configure_optimizers()
    torch.manual_seed(5)
    for _ in range(epochs):
        for idx, (real,) in enumerate(samples()):
            noise = torch.randn(len(real), 2)
            loss = judged(gan.discriminator(real), 1) + judged(gan.discriminator(gan.generator(noise).detach()), 0)
            d.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(gan.discriminator.parameters(), 0.5)
            d.step()
            if idx % 2 == 0:
                g.zero_grad()
                judged(gan.discriminator(gan.generator(noise)), 1).backward()
                g.step()
        for scheduler in schedulers:
            scheduler.step()
    return gan


def test_a_gan_in_its_own_hands():
    gan, hand = GAN(), gan_by_hand(EPOCHS)
    torch.manual_seed(5)
    trainer = make_trainer(max_epochs=EPOCHS)
    trainer.fit(gan, samples())
    assert same(gan, hand)
    assert trainer.global_step == EPOCHS * (20 + 10)  # each step of each optimizer counts


def test_a_gan_learns_where_its_samples_lie():
    gan = GAN()
    torch.manual_seed(5)
    make_trainer(max_epochs=40).fit(gan, samples())
    drawn = gan.generator(torch.randn(1000, 2))
    assert drawn.mean().item() == pytest.approx(3, abs=0.5)


# ---- several loaders


def part(length: int, first: float) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(length * 2.0).reshape(-1, 2) / 10 + first), batch_size=2)


class Pairs(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(2, 1)

    def loss(self, batches: Any) -> Tensor:
        found = [self.layer(batch[0]).square().mean() for batch in batches if batch is not None]
        return torch.stack(found).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch.values() if isinstance(batch, dict) else batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def together(mode: str) -> list[list[Any]]:
    """The batches that an epoch sees, of 4 and of 2 batches."""
    long, short = list(part(8, 0.0)), list(part(4, 5.0))
    return {
        "max_size_cycle": [list(pair) for pair in zip(long, islice(cycle(short), len(long)), strict=True)],
        "min_size": [list(pair) for pair in zip(long, short, strict=False)],
        "max_size": [list(pair) for pair in zip(long, [*short, None, None], strict=True)],
    }[mode]


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "max_size"])
@pytest.mark.parametrize("kind", [dict, list])
def test_several_loaders(mode, kind):
    both: Any = {"long": part(8, 0.0), "short": part(4, 5.0)} if kind is dict else [part(8, 0.0), part(4, 5.0)]
    module, hand = Pairs(), Pairs()
    make_trainer(max_epochs=EPOCHS).fit(module, L.utilities.CombinedLoader(both, mode))

    optimizer = hand.configure_optimizers()
    for batches in chain.from_iterable(together(mode) for _ in range(EPOCHS)):
        optimizer.zero_grad()
        hand.loss(batches).backward()
        optimizer.step()
    assert same(module, hand)


def test_loaders_one_after_the_other():
    class Single(Pairs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss([batch])

    module, hand = Single(), Single()
    make_trainer().fit(module, L.utilities.CombinedLoader([part(8, 0.0), part(4, 5.0)], "sequential"))

    optimizer = hand.configure_optimizers()
    for batch in chain(part(8, 0.0), part(4, 5.0)):
        optimizer.zero_grad()
        hand.loss([batch]).backward()
        optimizer.step()
    assert same(module, hand)


# ---- real scans


class Digits(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0].to(self.dtype)), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("acc", (self.net(batch[0].to(self.dtype)).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true", "16-true"])
def test_each_precision_learns_to_read_digits(precision):
    images, labels = (torch.as_tensor(found) for found in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)
    train, val = torch.utils.data.random_split(data, [1400, 397], torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    trainer = make_trainer(max_epochs=4, precision=precision)
    trainer.fit(Digits(), DataLoader(train, 32, shuffle=True), DataLoader(val, 397))
    assert trainer.callback_metrics["acc"] > 0.9
