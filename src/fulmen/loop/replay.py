"""One step that failed, run once more by itself, within the program that it belongs to."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulmen import seed
from fulmen.checkpoint import files, hparams
from fulmen.hooks import check_step
from fulmen.logs import PHASES, TRAIN_BATCH
from fulmen.loop import guard
from fulmen.loop.evaluate import step_call
from fulmen.tree import map_tensors

if TYPE_CHECKING:
    from fulmen.trainer import Trainer

FILE = "FULMEN_REPLAY"
"""The environment variable with the path of the captured step; `fulmen replay` sets it."""


def read(path: str) -> dict[str, Any]:
    return files.read(path, weights_only=os.environ.get("FULMEN_REPLAY_TRUST") != "1", mmap=False)


def replay(trainer: Trainer, path: str) -> None:
    """Set up what the step needs, run it, and end the program, with status 1 if it fails again; skip other fits."""
    held = read(path)
    if held["fit"] != trainer.fit_number:
        return
    trainer.strategy.setup_environment()
    module = trainer._setup()
    weights = held["state_dict"]
    if weights is None and held["checkpoint"]:
        print(f"The weights were too big to be kept: those of {held['checkpoint']} are used.")
        weights = files.read(held["checkpoint"])["state_dict"]
    if weights is not None:
        hparams.load_weights(module, weights, False, path)
    trainer.strategy.setup(module, trainer.precision_plugin, training=True)
    trainer.evaluation = trainer._evaluation("val")
    trainer._build_loop(module)
    trainer.progress.load_state_dict(held["progress"])
    print(f"Replay of the step at {held['place']}, which failed with\n  {held['error']}")
    print(f"  the batch: {_described(held['batch'])}")
    name = guard.bad_weight(module)
    print(f"  the weights: {f'{name} is not finite' if name else 'finite'}")
    raise SystemExit(_run(trainer, held))


def _run(trainer: Trainer, held: dict[str, Any]) -> int:
    """0 if nothing fails this time."""
    module, bad = trainer.lightning_module, []

    def look(name: str, part: nn.Module, output: Any) -> None:
        if not bad and guard.holds_bad(output):
            bad.append(f"{name or 'the module itself'} ({type(part).__name__})")

    seed.restore(held["rng"])
    batch, validating = trainer.strategy.to_device(held["batch"]), held["stage"] == "validation"
    trainer.logs.batch = batch
    trainer.logs.enter(PHASES["validation"][0] if validating else TRAIN_BATCH)
    module.train(not validating)
    try:
        gradients = torch.no_grad() if validating else torch.autograd.set_detect_anomaly(True)
        with guard.observed(module, look), gradients:
            _step(trainer, batch, held)
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__)
        print(f"It failed again{f'; the first bad output is that of {bad[0]}' if bad else ''}.")
        return 1
    print(
        "It did not fail this time: random numbers, other ranks, an earlier step or this machine have a part in it."
        if not bad
        else f"No error this time, but the output of {bad[0]} holds NaN or infinite values."
    )
    return 1 if bad else 0


def _step(trainer: Trainer, batch: Any, held: dict[str, Any]) -> None:
    if held["stage"] == "train":
        trainer.step.configure(1, None, None)
        trainer.step.run(batch, held["batch_idx"])
        return
    takes = check_step(trainer.lightning_module, "validation_step")
    run_step, takes_loader = step_call(trainer, "validation_step", takes, several=takes == "dataloader_idx")
    arguments = (batch, held["batch_idx"], held["loader_idx"])
    run_step(*arguments) if takes_loader else run_step(*arguments[:2])


def _described(batch: Any) -> str:
    shapes: list[str] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
        return tensor

    map_tensors(note, batch)
    return f"{', '.join(shapes) or type(batch).__name__}, {'not finite' if guard.holds_bad(batch) else 'finite'}"
