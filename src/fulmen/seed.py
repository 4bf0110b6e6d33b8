"""Seeding, and capture and restore of all random states."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fulmen.warn import rank_zero_info, rank_zero_only, rank_zero_warn

MAX_SEED = 2**32 - 1


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed Python, NumPy and PyTorch on all devices, and return the seed.

    Without a `seed` it is taken from the environment variable `PL_GLOBAL_SEED`, else it is 0. Child processes find it
    in that variable. With `workers=True` (`PL_SEED_WORKERS=1`) the trainer also seeds the worker processes of its
    data loaders, each differently on each rank and in each epoch.
    """
    seed = _seed_of_environment() if seed is None else _integer(seed, "seed")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed} must be between 0 and {MAX_SEED}, the range that NumPy accepts.")
    if verbose:
        rank_zero_info(f"Seed set to {seed}")
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    os.environ["PL_SEED_WORKERS"] = str(int(workers))
    random.seed(seed)
    torch.manual_seed(seed)
    _seed_numpy(seed)
    return seed


def reset_seed() -> None:
    """Seed once more with what `seed_everything` was called with; nothing happens if it never was."""
    if os.environ.get("PL_GLOBAL_SEED"):
        seed_everything(workers=os.environ.get("PL_SEED_WORKERS") == "1", verbose=False)


def _seed_of_environment() -> int:
    text = os.environ.get("PL_GLOBAL_SEED")
    if text is None:
        rank_zero_warn("No seed found, seed set to 0")
        return 0
    return _integer(text, "The environment variable PL_GLOBAL_SEED")


def _integer(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be an integer.") from None


def _seed_numpy(seed: int) -> None:
    try:  # imported here on purpose: were the user to import it later, it would seed itself from the clock
        import numpy as np
    except ImportError:
        return
    np.random.seed(seed)


def capture() -> dict[str, Any]:
    """The random states of this process, as plain data that `torch.load(weights_only=True)` accepts.

    NumPy and CUDA are part of it only where the program uses them already: capturing never starts them.
    """
    return plain(snapshot())


def snapshot() -> dict[str, Any]:
    """The same in less time, as `plain` takes it."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        states["numpy"] = numpy.random.get_state()
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def plain(states: dict[str, Any]) -> dict[str, Any]:
    version, words, gauss = states["python"]
    states = {**states, "python": [version, torch.tensor(words, dtype=torch.int64), gauss]}
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        states["numpy"] = [kind, torch.tensor(keys.tolist(), dtype=torch.int64), *rest]
    return states


def restore(states: dict[str, Any]) -> None:
    """Put back what `capture` returned; the states of devices that are not here are left out."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    torch.set_rng_state(states["torch"].cpu())
    if "numpy" in states and (numpy := sys.modules.get("numpy")):
        kind, keys, *rest = states["numpy"]
        numpy.random.set_state((kind, keys.tolist(), *rest))
    for index, state in enumerate(states.get("cuda", ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), index)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"].cpu())


def part(rank: int) -> None:
    """From here on this rank draws other numbers than rank zero, from the same seed."""
    seed = (torch.initial_seed() + rank) % (MAX_SEED + 1)
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


@contextmanager
def isolate_rng(include_cuda: bool = True) -> Iterator[None]:
    """Whatever is drawn or seeded inside, the random states afterwards are those from before.

    >>> torch.manual_seed(1)
    >>> with isolate_rng():
    ...     shown = [torch.rand(1) for _ in range(3)]
    >>> torch.rand(1) == shown[0]
    tensor([True])
    """
    states = capture()
    if not include_cuda:
        states.pop("cuda", None)
    try:
        yield
    finally:
        restore(states)


def pl_worker_init_function(worker_id: int, rank: int | None = None) -> None:
    """Seed a data loader's worker: differently for each worker, rank and epoch, the same in a repeated run.

    Made to be a `DataLoader`'s `worker_init_fn`. The epoch comes in through the base seed that the loader draws
    each time it starts its workers.
    """
    rank = rank_zero_only.rank if rank is None else rank  # type: ignore[attr-defined]
    base_seed = torch.initial_seed() - worker_id
    seed_from(f"{base_seed} {worker_id} {rank}")


def seed_from(text: str) -> None:
    """Seed the generators of this process's CPU from a text."""
    digest = hashlib.sha256(text.encode()).digest()
    random.seed(digest)
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    _seed_numpy(int.from_bytes(digest[8:12], "little"))
