"""Python calls of a step beyond the hand-written loop's: counted, so the same on any machine.

A change that adds calls fails here. If they are worth it, it raises the bound; the ceilings that must hold are 40 calls
and 25 of Fulmen's own for a bare step, 70 and 40 for one that logs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fulmen as L
from fulmen.loggers import CSVLogger

HOME = str(Path(L.__file__).parent)
FIRST, LAST = 60, 260
QUIET: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Loader:
    """Ready batches; counts the calls between two of them."""

    def __init__(self) -> None:
        self.calls = self.own = 0

    def __len__(self) -> int:
        return LAST + 1

    def __iter__(self) -> Iterator[Any]:
        batch = torch.randn(8, 4), torch.randint(0, 2, (8,))
        for index in range(LAST + 1):
            if index in (FIRST, LAST):
                sys.setprofile(self.count if index == FIRST else None)
            yield batch

    def count(self, frame: Any, event: str, _: Any) -> None:
        if event == "call":
            self.calls += 1
            self.own += frame.f_code.co_filename.startswith(HOME)


class Small(L.LightningModule):
    logs = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)

    def loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        if self.logs:
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Logging(Small):
    logs = True


class Validating(Small):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=8)


class Manual(Small):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def by_hand(loader: Loader, case: str) -> None:
    """The same work as one would write it."""
    model = Small()
    optimizer = model.configure_optimizers()
    trains, every = case not in ("validate", "predict"), 4 if case == "accumulate" else 1
    with torch.set_grad_enabled(trains):
        for index, batch in enumerate(loader):
            if case == "bf16":
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model.loss(batch)
            else:
                loss = model.loss(batch) if case != "predict" else model.net(batch[0])
            if not trains:
                continue
            loss.backward()
            if case == "clip":
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if index % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()


CASES: dict[str, tuple[str, type[Small], dict[str, Any], int, int]] = {
    # verb, module, arguments, most calls beyond the loop's, most of Fulmen's own
    "bare": ("fit", Small, {}, -25, 8),
    "logged": ("fit", Logging, {"logger": "csv"}, -22, 12),
    "manual": ("fit", Manual, {}, -14, 18),
    "accumulate": ("fit", Small, {"accumulate_grad_batches": 4}, 0, 9),
    "clip": ("fit", Small, {"gradient_clip_val": 1.0}, -34, 18),
    "bf16": ("fit", Small, {"precision": "bf16-mixed"}, -22, 12),
    "validate": ("validate", Validating, {}, 10, 10),
    "predict": ("predict", Small, {}, 4, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_makes_few_calls(name: str, tmp_path: Path):
    verb, module, options, most, most_own = CASES[name]
    if options.get("logger"):
        options = {**options, "logger": CSVLogger(tmp_path)}
    yardstick, loader = Loader(), Loader()
    by_hand(yardstick, name)

    trainer = L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "logger": False, **QUIET, **options})
    getattr(trainer, verb)(module(), loader)

    steps = LAST - FIRST
    assert (loader.calls - yardstick.calls) / steps <= most
    assert loader.own / steps <= most_own
