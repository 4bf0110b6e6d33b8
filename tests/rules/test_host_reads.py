"""Nothing on a step's way waits for the device: no value of a tensor is read there."""

from __future__ import annotations

import ast
import linecache
import sys
from pathlib import Path

import pytest
import torch
from rules.house import SOURCE, Module, modules, none
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L

ROOMS = ("loop", "strategy", "precision", "logs", "values")
READS = {"item", "cpu", "tolist", "numpy"}
CONVERSIONS = {"float"}

# Functions that are there to read values, or that run once a run.
MAY_READ = {
    "strategy/base.py: Strategy.teardown": "a run is over, and its module leaves the device",
    "loop/guard.py: _square_is_finite": "before a checkpoint, behind a bad loss, or where each step is to be looked at",
    "loop/guard.py: _sent": "no GPU: once in many steps",
    "loop/rows.py: write": "float() of what `read` has brought over",
    "values.py: read": "the place where values are read, all in one transfer",
    "values.py: wide": "float() of a Python number",
}


def reads(module: Module) -> list[str]:
    """Where the module reads what may be a tensor's value, as "file: function"."""
    found, lines = [], module.text.splitlines()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = f"{function}.{node.name}" if function else node.name
        elif isinstance(node, ast.ClassDef):
            function = node.name
        if isinstance(node, ast.Call) and _is_read(node) and not on_the_cpu(lines[node.lineno - 1]):
            found.append(f"{module.place}: {function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(module.tree, "")
    return found


def on_the_cpu(line: str) -> bool:
    """`on_host` is for tensors of the CPU, where nothing waits; the line that calls it has to ask."""
    return "on_host(" in line and ".is_cpu" in line


def _is_read(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in READS
    return isinstance(call.func, ast.Name) and (
        call.func.id == "on_host"
        or (call.func.id in CONVERSIONS and bool(call.args) and not isinstance(call.args[0], ast.Constant))
    )


def test_the_step_reads_no_tensor():
    found = {place for module in modules().values() if module.room in ROOMS for place in reads(module)}
    none(found - set(MAY_READ))


def test_every_exception_is_still_needed():
    found = {place for module in modules().values() if module.room in ROOMS for place in reads(module)}
    none(set(MAY_READ) - found)


class Reads(TorchDispatchMode):
    """Counts how often Fulmen takes the value of a tensor to Python: `item()`, `float()`, `tolist()`, `if tensor`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += not on_the_cpu(calling_line())
        return function(*args, **(kwargs or {}))


def calling_line() -> str:
    """The line of Fulmen's source that the call came from."""
    frame = sys._getframe(2)
    while frame and SOURCE not in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame else ""


class Small(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, on_epoch=True, prog_bar=True)
        self.log("also", loss, reduce_fx="max", on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def reads_of_a_run(batches: int, **options) -> int:
    data = DataLoader(TensorDataset(torch.randn(2 * batches, 4)), batch_size=2)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=10_000, enable_progress_bar=False, **options)
    with Reads() as reads:
        trainer.fit(Small(), data, data)
    assert trainer.global_step == batches
    return reads.count


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_clip_val": 1.0}, {"precision": "bf16-mixed"}, {"precision": "bf16-true"}, {"precision": "64-true"}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:An epoch has")  # logging is out of the way on purpose
def test_more_steps_read_no_more(options):
    assert reads_of_a_run(4, **options) == reads_of_a_run(24, **options)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:An epoch has")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_gpu(precision):
    class Strict(L.Callback):
        """Makes every wait for the device an error, from the third batch to the last."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                torch.cuda.set_sync_debug_mode("error")

        def on_train_epoch_end(self, trainer, pl_module):
            torch.cuda.set_sync_debug_mode("default")

    data = DataLoader(TensorDataset(torch.randn(40, 4)), batch_size=2, pin_memory=True)
    trainer = L.Trainer(max_epochs=1, accelerator="gpu", devices=1, precision=precision, log_every_n_steps=10_000,
                        enable_progress_bar=False, callbacks=[Strict()])  # fmt: skip
    try:
        trainer.fit(Small(), data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 20
