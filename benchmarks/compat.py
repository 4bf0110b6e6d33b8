"""What each adapter for older code costs in a training step, beside the same thing in today's spelling.

Calls are Python functions of Fulmen's that run for one batch, counted exactly; microseconds are processor time of the
whole step, the best of a few rounds. Figures are differences between a long and a short run.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen import compat

SHORT, LONG, ROUNDS = 50, 450, 5
PACKAGE = str(Path(L.__file__).parent)


class Small(L.LightningModule):
    """Two layers, the first with an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(8, 1), nn.Linear(8, 1)

    def loss(self, batch: Any, layer: int = 0) -> Tensor:
        return (self.layer if layer == 0 else self.other)(batch[0]).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.layer.parameters(), lr=0.01)


class Logs(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("x", loss)
        return loss


class LogsWithOldArguments(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("x", loss, tbptt_reduce_fx=torch.mean)  # type: ignore[call-arg]
        return loss


class ReturnsADict(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        return {"loss": loss, "log": {"x": loss}}


class ReturnsAResult(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        from fulmen.compat.results import TrainResult

        result = TrainResult(self.loss(batch))
        result.log("x", result.minimize)
        return result


class KeepsOutputs(Small):
    """What a training_epoch_end(outputs) is today."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.__dict__.setdefault("outputs", []).append(loss.detach())
        return loss


class GetsOutputs(Small):
    def training_epoch_end(self, outputs: Any) -> None:
        """Gets what the steps returned."""


class StepEnd(Small):
    def training_step_end(self, output: Any) -> Any:
        return output


class Manual(Small):
    automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (self.layer, self.other)], []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for layer, optimizer in enumerate(self.optimizers()):  # type: ignore[arg-type]
            with self.toggled_optimizer(optimizer):
                loss = self.loss(batch, layer)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()


class Indexed(Manual):
    automatic_optimization = True

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:  # type: ignore[override]
        return self.loss(batch, optimizer_idx)


class Steps(Small):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)


class StepsByIndex(Small):
    def optimizer_step(  # type: ignore[override]
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, optimizer_closure: Any, on_tpu: bool,
        using_native_amp: bool, using_lbfgs: bool,
    ) -> None:  # fmt: skip
        optimizer.step(closure=optimizer_closure)


class StepsWithoutClosure(Small):
    def optimizer_step(  # type: ignore[override]
        self, epoch_nb: int, batch_nb: int, optimizer: Any, optimizer_i: int, second_order_closure: Any = None
    ) -> None:
        optimizer.step()
        optimizer.zero_grad()


class BatchEnd(L.Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None: ...


class BatchEndWithLoader(L.Callback):
    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None: ...


class OldBatchEnd(L.Callback):
    def on_batch_end(self, trainer: Any, pl_module: Any) -> None: ...


Made = tuple[type[Small], type[L.Callback] | None]
ROWS: list[tuple[str, Made, Made]] = [
    ("a module of today, compat in use", (Small, None), (Small, None)),
    ("self.log with arguments that are gone", (Logs, None), (LogsWithOldArguments, None)),
    ('{"loss": ..., "log": {...}} returned', (Logs, None), (ReturnsADict, None)),
    ("TrainResult returned", (Logs, None), (ReturnsAResult, None)),
    ("training_epoch_end(outputs)", (KeepsOutputs, None), (GetsOutputs, None)),
    ("training_step_end", (Small, None), (StepEnd, None)),
    ("optimizer_idx, two optimizers", (Manual, None), (Indexed, None)),
    ("optimizer_step with optimizer_idx", (Steps, None), (StepsByIndex, None)),
    ("optimizer_step without a closure", (Steps, None), (StepsWithoutClosure, None)),
    ("on_train_batch_end with dataloader_idx", (Small, BatchEnd), (Small, BatchEndWithLoader)),
    ("on_batch_end of a callback", (Small, BatchEnd), (Small, OldBatchEnd)),
]


def train(made: Made, steps: int) -> None:
    module, callback = made
    data = DataLoader(TensorDataset(torch.ones(2 * steps, 8)), batch_size=2)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    L.Trainer(max_epochs=1, accelerator="cpu", callbacks=callback and [callback()], **quiet).fit(module(), data)


def a_step(measure: Callable[[Made, int], float], made: Made) -> float:
    return (measure(made, LONG) - measure(made, SHORT)) / (LONG - SHORT)


def calls(made: Made, steps: int) -> float:
    count = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(note)
    try:
        train(made, steps)
    finally:
        sys.setprofile(None)
    return count


def seconds(made: Made, steps: int) -> float:
    def once() -> float:
        start = time.process_time()
        train(made, steps)
        return time.process_time() - start

    return min(once() for _ in range(ROUNDS))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("fulmen").setLevel(logging.WARNING)
    train((Small, None), 5)
    bare = {name: (a_step(calls, today), a_step(seconds, today)) for name, today, _ in ROWS}
    compat.install()
    import pytorch_lightning as pl

    assert (pl.LightningModule, pl.Trainer, pl.Callback) == (L.LightningModule, L.Trainer, L.Callback)
    print(f"{'':40}{'calls a step':>24}{'us a step':>24}")
    print(f"{'':40}{'today':>8}{'then':>8}{'':8}{'today':>8}{'then':>8}")
    for name, _, then in ROWS:
        counted, took = a_step(calls, then), a_step(seconds, then) * 1e6
        before, took_before = bare[name][0], bare[name][1] * 1e6
        print(f"{name:40}{before:8.1f}{counted:8.1f}{counted - before:+8.1f}{took_before:8.1f}{took:8.1f}"
              f"{took - took_before:+8.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
