"""Ranges are opened where a profiler runs; hooks, and what stands in the place of a step, are called in any case."""

from __future__ import annotations

import warnings
from collections import Counter
from types import MethodType
from typing import Any

import pytest
import torch
from small import make_trainer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset

import fulmen as L
from fulmen.demos import BoringModel

STEPS = 4
RANGES = ("Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad")
LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"


class Rows(Dataset):
    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((32,), float(index))


class Automatic(BoringModel):
    def configure_optimizers(self):
        self.made = torch.optim.SGD(self.parameters(), lr=0.1)
        return self.made


class Manual(Automatic):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.step(batch))
        optimizer.step()


def fit(model: L.LightningModule, loader: Any = None) -> L.LightningModule:
    make_trainer(limit_val_batches=0).fit(model, loader or DataLoader(Rows()))
    return model


def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The ranges that are opened from here on."""
    found: Counter[str] = Counter()

    class Noted(torch.autograd.profiler.record_function):
        def __init__(self, name: str, args: str | None = None) -> None:
            found[name] += 1
            super().__init__(name, args)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", Noted)
    return found


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_no_range_is_opened_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, kind: type):
    found = opened(monkeypatch)
    fit(kind())
    assert not found


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_a_profiler_sees_them_all(kind: type):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        fit(kind())
    counts = {row.key: row.count for row in profiler.key_averages()}
    assert [counts.get(name) for name in (*RANGES, LOADER)] == [STEPS, STEPS, STEPS]


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_hooks_of_optimizers_run(kind: type):
    seen: list[str] = []
    handles: list[Any] = []

    class Hooked(kind):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 1:
                handles.pop().remove()
                handles.append(self.made.register_step_pre_hook(lambda *_: seen.append("before")))
            elif batch_idx == 3:
                handles.pop().remove()
                handles.append(self.made.register_step_post_hook(lambda *_: seen.append("after")))

    def run(*given: Any) -> dict[str, int]:
        seen.clear()
        handles.extend(given)
        try:
            fit(Hooked())
        finally:
            while handles:
                handles.pop().remove()
        return Counter(seen)

    before = register_optimizer_step_pre_hook(lambda *_: seen.append("every before"))
    assert run(before) == {"every before": 1, "before": 2, "after": 1}
    after = register_optimizer_step_post_hook(lambda *_: seen.append("every after"))
    assert run(after) == {"every after": 1, "before": 2, "after": 1}


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_what_stands_in_the_place_of_a_step_is_called(kind: type):
    seen: list[str] = []

    class Patched(kind):
        def on_train_start(self):
            own, zero = self.made.step, self.made.zero_grad
            self.made.step = MethodType(lambda _, closure=None: (seen.append("step"), own(closure))[1], self.made)
            self.made.zero_grad = lambda: (seen.append("zero"), zero())[1]

    fit(Patched())
    assert Counter(seen) == {"step": STEPS, "zero": STEPS}


def test_classes_derived_from_an_optimizer_keep_their_own_methods():
    seen: list[str] = []

    class Own(torch.optim.SGD):
        def step(self, closure=None):
            seen.append("step")
            return super().step(closure)

        def zero_grad(self):
            seen.append("zero")
            super().zero_grad()

    class Model(BoringModel):
        def configure_optimizers(self):
            return Own(self.parameters(), lr=0.1)

    fit(Model())
    assert Counter(seen) == {"zero": STEPS, "step": STEPS}


def test_a_scheduler_knows_that_its_optimizer_has_stepped():
    class Scheduled(BoringModel):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(Scheduled())
    assert model.lr_schedulers().get_last_lr() == [pytest.approx(0.1 * 0.1**STEPS)]
