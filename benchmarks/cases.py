"""What is timed: cases, models, data, and a clock that sits where every framework must pass. Imports no framework."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import models
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


@dataclass(frozen=True)
class Case:
    """One workload. `way` names the function of an adapter that runs it; `goal` is Fulmen's ratio to `beside`."""

    title: str
    way: str = "train"
    data: str = "ready"
    goal: float = 1.05
    steps: int = 1100
    chunk: int = 100
    beside: str = ""  # the case whose hand-written loop is the yardstick, if it is not this one
    compile: str = ""  # a mode of torch.compile, or WHOLE


CASES = {
    "step": Case("bare step"),
    "log": Case("loss logged, bar, CSV", "log", goal=0.95),
    "default": Case("everything on by default", "default", goal=1.10),
    "validate": Case("validation", "validate", goal=1.20, steps=3300, chunk=300),
    "predict": Case("prediction", "predict", goal=1.20, steps=3300, chunk=300),
    "manual": Case("manual optimization", "manual"),
    "accumulate": Case("accumulation over 4", "accumulate"),
    "clip": Case("gradient clipping", "clip"),
    "bf16": Case("bf16 autocast", "bf16"),
    "ddp": Case("DDP, 2 processes", "ddp"),
    "tensors": Case("TensorDataset, shuffled", data="tensors", goal=0.70, steps=550, chunk=50),
    "mnist": Case("images, a transform each", data="mnist", goal=1.00, steps=275, chunk=25),
    "getitems": Case("images, __getitems__", data="getitems", goal=0.35, steps=275, chunk=25, beside="mnist"),
}
ACCUMULATE, CLIP = 4, 1.0
WHOLE = "whole steps"
"""Fulmen's cuda_graph; the other ones run eagerly."""
GPU_CASES = {
    f"{net}-{kind}": Case(f"{title}, {kind}", "accelerated", net, steps=steps, chunk=chunk, compile=mode)
    for net, title, steps, chunk in (
        ("mlp", "tiny MLP", 2200, 200),
        ("cnn", "CNN on 32 x 32 images", 440, 40),
        ("gpt", "GPT, 124M parameters", 66, 6),
    )
    for kind, mode in (
        ("eager", ""),
        ("compiled", "default"),
        ("CUDA graphs", "reduce-overhead"),
        ("whole steps captured", WHOLE),
    )
}


class Clock:
    """Stamps the time at every `chunk`-th forward pass: a step is the distance between two of them.

    So all that a framework does around a step is inside, whatever its interface looks like. In the modes "calls" and
    "profile" the passes between the first and the last stamp are counted, not timed.
    """

    def __init__(self, chunk: int, steps: int, mode: str = "time") -> None:
        self.n, self.next, self.chunk, self.mode = 0, 1, chunk, mode
        self.last = steps // chunk * chunk
        self.stamps: list[tuple[int, float, float]] = []
        self.first: tuple[float, float] | None = None
        self.calls: Counter[str] = Counter()
        self.profiler: Any = None

    def mark(self) -> None:
        """Called from the model's forward when `n == next`."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self.n == 1:
            self.first, self.next = now, -1 if self.mode == "instructions" else self.chunk
            return
        self.stamps.append((self.n, *now))
        self.next = self.n + self.chunk if self.n < self.last else -1
        if self.mode in ("calls", "profile"):
            self.next = self.last if len(self.stamps) == 1 else -1
            self._count(on=len(self.stamps) == 1)

    def _count(self, on: bool) -> None:
        if self.mode == "calls":
            sys.setprofile(self._call if on else None)
        elif on:
            import cProfile

            self.profiler = cProfile.Profile()
            self.profiler.enable()
        else:
            self.profiler.disable()

    def _call(self, frame: Any, event: str, _: Any) -> None:
        if event == "call":
            self.calls[frame.f_code.co_filename] += 1

    def report(self) -> dict[str, Any]:
        """Microseconds of a step, CPU and wall clock: the least and the median of the chunks."""
        if self.mode == "instructions":  # an outer tool counts them
            return {}
        steps = self.stamps[-1][0] - self.stamps[0][0]
        if self.mode == "calls":
            return {"calls": sum(self.calls.values()) / steps, "files": {k: v / steps for k, v in self.calls.items()}}
        if self.mode == "profile":
            rows = [(str(row.code), row.callcount / steps, row.inlinetime / steps * 1e6) for row in self._rows()]
            return {"functions": rows}
        found = {}
        for name, at in (("wall", 1), ("cpu", 2)):
            times = sorted((b[at] - a[at]) / (b[0] - a[0]) * 1e6 for a, b in itertools.pairwise(self.stamps))
            found[f"{name}_min"], found[f"{name}_median"] = times[0], times[len(times) // 2]
        return found

    def _rows(self) -> Iterator[Any]:
        for row in self.profiler.getstats():
            code = row.code
            if not isinstance(code, str):
                row = type(row)((f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}", *row[1:]))
            yield row


class Net(nn.Module):
    """The layers, behind the clock."""

    def __init__(self, clock: Clock, layers: nn.Module) -> None:
        super().__init__()
        self.clock, self.net = clock, layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clock = self.clock
        clock.n += 1
        if clock.n == clock.next:
            clock.mark()
        return self.net(x)


class Batches:
    """Ready-made batches, as often as is asked for: no loader's cost, so only the framework's is left."""

    def __init__(self, batches: list[Any], length: int, clock: Clock | None = None) -> None:
        self.batches, self.length, self.clock = batches, length, clock
        self.dataset = batches  # some frameworks ask a loader for these
        self.batch_size = len(batches[0][0])

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        batches = itertools.islice(itertools.cycle(self.batches), self.length)
        return batches if self.clock is None else self._clocked(batches, self.clock)

    @staticmethod
    def _clocked(batches: Iterator[Any], clock: Clock) -> Iterator[Any]:
        """For models that a compiler reads: the clock must not be in them."""
        for batch in batches:
            clock.n += 1
            if clock.n == clock.next:
                clock.mark()
            yield batch


class Images(Dataset):
    """28 x 28 images in bytes with a transform each, as torchvision's MNIST gives them."""

    def __init__(self, length: int) -> None:
        self.images = torch.randint(0, 256, (length, 28, 28), dtype=torch.uint8)
        self.labels = torch.randint(0, 10, (length,))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i].unsqueeze(0).float().div_(255).sub_(0.1307).div_(0.3081), int(self.labels[i])


class BatchedImages(Images):
    """The same, which can also fetch the samples of a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        images = self.images[indices].unsqueeze(1).float().div_(255).sub_(0.1307).div_(0.3081)
        return list(zip(images, self.labels[indices], strict=True))


class Task:
    """One case, ready for an adapter: model, data, optimizer, loss."""

    accumulate, clip = ACCUMULATE, CLIP

    def __init__(self, name: str, mode: str = "time", steps: int | None = None) -> None:
        torch.manual_seed(0)
        self.case = (CASES | GPU_CASES)[name]
        self.steps = steps or (402 if mode in ("calls", "profile") else self.case.steps)
        chunk = 200 if mode in ("calls", "profile") else self.case.chunk
        self.clock = Clock(chunk if steps is None else max(1, steps // 10), self.steps, mode)
        self.spans: dict[str, float] = {}
        self.loader = self._loader()

    def _loader(self) -> Any:
        kinds = {"mnist": Images, "getitems": BatchedImages}
        rows = self.steps * 64
        if self.case.data in kinds:
            return DataLoader(kinds[self.case.data](rows), batch_size=64, shuffle=True)
        if self.case.data == "tensors":
            data = TensorDataset(torch.randn(rows, 32), torch.randint(0, 2, (rows,)))
            return DataLoader(data, batch_size=64, shuffle=True)
        if self.case.way == "accelerated":
            return Batches([models.batch(self.case.data) for _ in range(4)], self.steps, self.clock)
        return Batches([(torch.randn(8, 32), torch.randint(0, 2, (8,))) for _ in range(64)], self.steps)

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def model(self) -> nn.Module:
        if self.case.way == "accelerated":
            return models.build(self.case.data)
        if self.case.data in ("mnist", "getitems"):
            widths, first = (784, 128, 256, 10), [nn.Flatten()]
        else:
            widths, first = (32, 32, 2), []
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
        return Net(self.clock, nn.Sequential(*first, *layers))

    @property
    def adam(self) -> bool:
        return self.case.data in ("mnist", "getitems")

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        if self.case.data == "gpt":
            return torch.optim.AdamW(parameters, lr=3e-4, capturable=self.case.compile == WHOLE)
        return torch.optim.Adam(parameters, lr=1e-3) if self.adam else torch.optim.SGD(parameters, lr=0.01)

    loss = staticmethod(nn.functional.cross_entropy)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.spans[name] = time.perf_counter() - begin
