"""What is told of an error beside its own message: where the run stood, on what samples, and what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from fulmen import position, seed, tree
from fulmen.checkpoint import files
from fulmen.kept import OTHERS, OURS, STANDARD
from fulmen.warn import log

if TYPE_CHECKING:
    from fulmen.loop.fetch import Fetch
    from fulmen.trainer import Trainer

MOST_BYTES = 2**30
"""A captured step holds the weights up to this size."""
MOST_SAMPLES = 32


def tell(trainer: Trainer, error: BaseException) -> None:
    """Add to the error where the run stood, and keep the step so that it can be run alone."""
    if trainer.state.fn != "fit" or trainer.train_loop is None or trainer.train_loop.fetch is None:
        return
    hook, in_step, loading = _way(error)
    text = f"Trainer.fit was at {trainer._place()}{f', in {hook}' if hook else ''}."
    if "backward through the graph a second time" in str(error) and trainer.lightning_module.automatic_optimization:
        text += " The trainer calls backward() itself: leave it to it, or set self.automatic_optimization = False."
    if not getattr(error, "of_another_rank", False):
        with suppress(Exception):  # whatever goes wrong here, the error itself is told
            text += _samples(trainer, loading)
            text += _kept(trainer, error, hook) if in_step else ""
    note = getattr(error, "add_note", None)  # Python 3.11 and later
    note(text) if note is not None else log.error(text)


def _way(error: BaseException) -> tuple[str, bool, bool]:
    """The function of the program that was called last by this package; whether within a step, or while loading."""
    hook, in_step, loading, ours = "", False, False, False
    traceback = error.__traceback__
    while traceback is not None:
        file, name = traceback.tb_frame.f_code.co_filename, traceback.tb_frame.f_code.co_name
        if file.startswith(OURS):
            ours, loading = True, file.endswith(("fetch.py", "unprofiled.py", "position.py", "batched.py"))
            in_step = in_step or file.endswith(os.path.join("loop", "step.py"))
        elif ours and not file.startswith(STANDARD) and OTHERS not in file:
            hook, ours = name, False
            in_step = in_step or name == "validation_step"
        traceback = traceback.tb_next
    return hook, in_step, loading


def _samples(trainer: Trainer, loading: bool) -> str:
    fetches = (loop.fetch for loop in (trainer.evaluation, trainer.train_loop) if loop is not None)
    fetch = next(filter(None, fetches), None)
    if fetch is None or not fetch.sized:
        return ""
    number = fetch.count if loading else fetch.count - 1
    found = samples(fetch, number)
    if found is None:
        return ""
    listed = ", ".join(map(str, found[:MOST_SAMPLES])) + (", ..." if len(found) > MOST_SAMPLES else "")
    return f" Batch {number} is made of the samples {listed}."


def samples(fetch: Fetch, number: int) -> list[Any] | None:
    """The indices in batch `number` of the pass: its sampler is asked once more, from where it began."""
    loader, begun = getattr(fetch.place, "loader", None), getattr(fetch.place, "begun", None)
    if loader is None or not begun or not position.skips(loader):
        return None
    lists = loader.batch_sampler
    lists = lists.inner if isinstance(lists, position.Lists) else lists
    with seed.isolate_rng():
        position.put_all_back(loader, begun["loader"])
        seed.restore(begun["rng"])
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # as the loader's iterator does
        if not loader.num_workers and "first_rng" in begun:
            seed.restore(begun["first_rng"])
        found = next(islice(iter(lists), number, None), None)
    return None if found is None else [int(index) if hasattr(index, "__index__") else index for index in found]


def _kept(trainer: Trainer, error: BaseException, hook: str) -> str:
    """Write the step into a file beside the checkpoints; a run that has not done any batch is as quickly begun anew."""
    folder = next(filter(None, (getattr(c, "dirpath", None) for c in trainer.checkpoint_callbacks)), None)
    if folder is None or not trainer.progress.batches or os.environ.get("FULMEN_CAPTURE") == "0":
        return ""
    rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    path = f"{folder}/failed_step{rank}.replay"
    files.write(captured(trainer, f"{type(error).__name__}: {error}", hook), path)
    return f" `fulmen replay {shlex.quote(path)}` runs this step alone (FULMEN_CAPTURE=0 keeps none)."


def captured(trainer: Trainer, error: str, hook: str) -> dict[str, Any]:
    """The batch, the weights as they are now, the random states, and how the program was started."""
    module, evaluation = trainer.lightning_module, trainer.evaluation
    at = evaluation if evaluation is not None and evaluation.fetch is not None else trainer.step
    validating = at is evaluation
    weights = module.state_dict()
    num_bytes = sum(value.nbytes for value in weights.values() if isinstance(value, torch.Tensor))
    last = (getattr(callback, "last_model_path", "") for callback in trainer.checkpoint_callbacks)
    found = {
        "fulmen": {"version": files.FORMAT},
        "error": error,
        "hook": hook,
        "stage": "validation" if validating else "train",
        "batch": trainer.logs.batch if validating else trainer.step.batch,
        "batch_idx": at.batch_idx,
        "loader_idx": getattr(at, "loader_idx", 0),
        "progress": trainer.progress.state_dict(),
        "place": trainer._place(),
        "state_dict": weights if num_bytes <= MOST_BYTES else None,
        "checkpoint": next(filter(None, last), None),
        "rng": seed.capture(),
        "fit": trainer.fit_number,
        "command": sys.orig_argv[1:],
        "folder": os.getcwd(),
    }
    return tree.move(found, torch.device("cpu"))
