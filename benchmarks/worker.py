"""Runs cases of one framework: `worker.py FRAMEWORK` forks for each job on stdin, `worker.py FRAMEWORK JOB` runs one.

A job is JSON: {"case": ..., "mode": ..., "result": FILE}. What was measured is written to the file.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import threading
import time
import warnings
from typing import Any

import torch
from cases import CASES, GPU_CASES, Task


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(adapter: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Run the case; what its clock says."""
    mode = job["mode"]
    way = "checkpoint" if mode == "checkpoint" else (CASES | GPU_CASES)[job["case"]].way
    run = getattr(adapter, way, None)
    if run is None:
        return {"absent": True}
    task = Task(job["case"], mode, job.get("steps"))
    if mode == "growth":
        return growth(run, task)
    if mode == "checkpoint":
        return checkpoint(run, task)
    gc.collect()
    if mode == "instructions":
        gc.freeze()  # a collection of all that was imported falls into one run and not into the other
    begin = time.perf_counter(), time.process_time()
    run(task)
    found = task.clock.report()
    first = [then - start for then, start in zip(task.clock.first, begin, strict=True)]
    return {**found, "first_wall": first[0], "first_cpu": first[1], "peak": peak_mib()}


def growth(run: Any, task: Task) -> dict[str, Any]:
    """Resident memory at each tenth of a long run."""
    seen: list[float] = []
    mark = task.clock.mark

    def note() -> None:
        mark()
        seen.append(resident_mib())

    task.clock.mark = note
    run(task)
    return {"resident": seen}


def checkpoint(run: Any, task: Task) -> dict[str, Any]:
    """Seconds to save and to load 1,000 x 1,000 layers with Adam's state."""
    layers = [torch.nn.Linear(1000, 1000) for _ in range(50)]
    model = torch.nn.Sequential(torch.nn.Linear(32, 1000), *layers, torch.nn.Linear(1000, 2))
    task.model = lambda: model
    task.optimizer = lambda parameters: torch.optim.Adam(parameters)
    run(task)
    return task.spans


def start(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: import, then up to the first step."""
    before, modules = (time.perf_counter(), time.process_time()), len(sys.modules)
    adapter = importlib.import_module(f"peers.{name}")
    spent = time.perf_counter() - before[0], time.process_time() - before[1]
    modules = len(sys.modules) - modules
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # torch loads its compiler with the first optimizer
    if job["mode"] != "start":
        return measure(adapter, job)
    return {**measure(adapter, job), "import_wall": spent[0], "import_cpu": spent[1], "modules": modules}


def version(adapter: Any) -> str:
    """Fulmen runs from its source; the others are installed."""
    return getattr(adapter, "VERSION", None) or importlib.metadata.version(adapter.PACKAGE)


def answer(job: dict[str, Any], work: Any, *arguments: Any) -> None:
    try:
        os.chdir(os.path.dirname(job["result"]))
        found = work(*arguments)
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}"[:300]}
    if os.environ.get("RANK", "0") == "0":
        with open(job["result"], "w") as file:
            json.dump(found, file)


def serve(name: str) -> None:
    """Import once, then fork for each job: every run has a fresh process without paying for its imports."""
    answers = os.fdopen(int(os.environ["ANSWERS"]), "w", buffering=1)
    try:
        adapter = importlib.import_module(f"peers.{name}")
        torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # torch loads its compiler with the first optimizer
        print(version(adapter), file=answers)
    except Exception as error:
        print(f"error {type(error).__name__}: {error}".splitlines()[0], file=answers)
        return
    assert threading.active_count() == 1 or name == "keras", threading.enumerate()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            answer(job, measure, adapter, job)
            os._exit(0)
        print(os.waitpid(child, 0)[1], file=answers)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        job = json.loads(sys.argv[2])
        answer(job, start, sys.argv[1], job)
