"""Where the time of a fit goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch.utils.data import DataLoader

from fulmen.batched import is_batched
from fulmen.device import cores
from fulmen.warn import rank_zero_info

if TYPE_CHECKING:
    from fulmen.strategy.base import Strategy

Method = TypeVar("Method", bound=Callable[..., Any])

PARTS = ("data", "opening", "transfer", "step", "callbacks", "logging", "validation")
LEAST_WAIT_S, LEAST_SHARE, WORTHWHILE = 3.0, 0.25, 0.1
"""From which wait on, in seconds and of the training's time, it is worth a line; from which share on, advice."""
WORKER_S = 0.005
"""A batch that loads faster gains nothing from a worker process, which takes its time to send it."""


class Account:
    """Seconds of the training loop by part, as the host's clock has them, from its start up to now.

    - `data`: waiting for batches; `opening`: making the loader's iterator, which starts its workers;
    - `transfer`: bringing batches to the device, with the hooks around that;
    - `step`: all that is not in another part: training_step, backward, optimizer, schedulers, and hooks before a step;
    - `callbacks`: hooks behind a step and at an epoch's end, which also write checkpoints;
    - `logging`: rows for the loggers; `validation`: validation.

    On a GPU it may still be busy while the host waits: `idle_share` of sampled waits ended with nothing left to do.
    """

    def __init__(self) -> None:
        self.data = self.opening = self.transfer = self.callbacks = self.logging = self.validation = 0.0
        self.apart = 0.0  # what was measured for itself within a part that is being measured
        self.sampled = self.idle = 0
        self.start()

    def start(self, batches: int = 0) -> None:
        self.begun, self.batches = perf_counter(), -batches
        self.ended: float | None = None

    @property
    def total(self) -> float:
        return (self.ended or perf_counter()) - self.begun

    @property
    def step(self) -> float:
        return self.total - sum(getattr(self, name) for name in PARTS if name != "step")

    @property
    def idle_share(self) -> float:
        return self.idle / self.sampled if self.sampled else 1.0

    def seconds(self) -> dict[str, float]:
        """All parts and their total."""
        return {**{name: getattr(self, name) for name in PARTS}, "total": self.total}

    def __repr__(self) -> str:
        return f"Account({', '.join(f'{name}={value:.3g}' for name, value in self.seconds().items())})"

    # ---- keeping it

    def mark(self) -> float:
        """Begin to measure a part by hand."""
        self.apart = 0.0
        return perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts for this part alone, not for those around it."""
        outer, self.apart = self.apart, 0.0
        begin = perf_counter()
        try:
            yield
        finally:
            took = perf_counter() - begin
            setattr(self, name, getattr(self, name) + took - self.apart)
            self.apart = outer + took

    def moving(self, prepare: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
        """`prepare`, which happens while the loop waits for a batch, on its own account."""
        if prepare is None:
            return None

        def timed(batch: Any) -> Any:
            begin = perf_counter()
            batch = prepare(batch)
            took = perf_counter() - begin
            self.transfer += took
            self.data -= took
            return batch

        return timed

    def watched(self, batches: Iterator[Any], is_idle: Callable[[], bool] | None, every: int = 16) -> Iterator[Any]:
        """The batches; asks behind every sixteenth wait whether the device, too, had nothing to do."""
        return batches if is_idle is None else chain.from_iterable(self._watched(batches, is_idle, every))

    def _watched(self, batches: Iterator[Any], is_idle: Callable[[], bool], every: int) -> Iterator[Any]:
        end: Any = object()
        while True:
            yield islice(batches, every - 1)
            batch = next(batches, end)
            if batch is end:
                return
            self.sampled += 1
            self.idle += is_idle()
            yield (batch,)

    # ---- reading it

    def finish(self, batches: int, loader: Any, strategy: Strategy) -> None:
        """The end of the training; says so if it was held up."""
        self.ended, self.batches = perf_counter(), self.batches + batches
        line = self.held_up(loader, strategy.world_size // strategy.num_nodes)
        if line is not None:
            rank_zero_info(line)

    def held_up(self, loader: Any, processes: int) -> str | None:
        """One line on a training that waited for its data, and on what would help; None if it did not.

        `processes` share the cores of this machine.
        """
        trained = self.total - self.validation
        waited = (self.data + self.opening) * self.idle_share
        if not self.batches or waited < max(LEAST_WAIT_S, LEAST_SHARE * trained):
            return None
        load, rest = waited / self.batches, (trained - waited) / self.batches
        return (
            f"Training waited {waited:.1f} s of {trained:.1f} s ({waited / trained:.0%}) for its data: "
            f"{_time(load)} a batch, beside {_time(rest)} for all else. {self._advice(loader, load, rest, processes)}"
        )

    def _advice(self, loader: Any, load: float, rest: float, processes: int) -> str:
        if hasattr(loader, "flattened"):
            return "Workers in the loaders that are combined would help."
        if not isinstance(loader, DataLoader):
            return f"A {type(loader).__name__} that makes batches ahead, in a thread or process, would help."
        workers = loader.num_workers
        if workers and self.opening > self.data and not loader.persistent_workers:
            return "Most of it is the start of workers, epoch by epoch: set DataLoader(persistent_workers=True)."
        if load < WORKER_S:
            if is_batched(loader):
                return "Its samples are few or small: a higher batch_size would help."
            return (
                "Workers would not help with batches that load this fast; a dataset with __getitems__(indices), or "
                "a TensorDataset, gives each batch in one call."
            )
        work = (load + rest) * workers if workers else load  # of one core, for a batch
        more = min(math.ceil(work / rest), cores() // processes - 1)
        if more > workers:
            saved = 1 - max(rest, work / more) / (load + rest)
            if saved > WORTHWHILE:
                return f"By these times DataLoader(num_workers={more}) would save {saved:.0%} of the whole."
        return (
            f"No core is left for {'more ' if workers else ''}workers: a cheaper __getitem__ would help, with what it "
            "computes each time saved beforehand."
        )


def counted(name: str) -> Callable[[Method], Method]:
    """For methods of the training loop: their time counts for this part."""

    def decorate(method: Method) -> Method:
        @wraps(method)
        def run(self: Any, *args: Any) -> Any:
            with self.account.part(name):
                return method(self, *args)

        return cast("Method", run)

    return decorate


def is_idle(device: torch.device) -> Callable[[], bool] | None:
    """How to ask whether the device has done all that it was given; None where the host computes itself."""
    return (lambda: torch.cuda.current_stream(device).query()) if device.type == "cuda" else None


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1e3:.2g} ms"
