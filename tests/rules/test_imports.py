"""Imports go one way, never in a circle, and cost little."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from rules.house import imported_modules, imported_names, modules, none

# A room may import from its own layer and from those below it (ARCHITECTURE.md).
LAYERS = [
    {"__main__", "tools", "cli"},
    {"compat"},
    {"demos", "trainer"},
    {"run"},
    {"readout", "parts", "verify", "compiled", "outcome", "report"},
    {"loop", "callbacks", "loggers"},
    {"module", "datamodule"},
    {"options", "hooks", "optim", "logs", "slots", "data", "batched", "combined", "position", "kept", "loaders"}
    | {"attributes", "checkpoint", "summary", "introspection", "types", "states", "loop.resume"},
    {"strategy", "slurm", "precision", "device", "callbacks.base", "lifecycle", "export"},
    {"values", "collection", "memory", "parameters", "flops", "signals", "watch", "loop.progress"} | {"loop.guard"},
    {"tree", "seed", "warn", "errors", "transfer", "__init__"},
]
HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}

# compat is asked at five seams, and the command line starts scripts in it. Each asks inside a function.
SEAMS = {
    "fulmen": "modules and names at other documented paths",
    "fulmen.trainer": "unknown arguments and missing attributes of the Trainer",
    "fulmen.verify": "unknown arguments of fit and the like",
    "fulmen.module": "missing attributes of the module",
    "fulmen.loop.train": "missing attributes of the training loop",
    "fulmen.hooks": "hooks by older names and with older signatures",
    "fulmen.run": "several optimizers in one automatic step",
    "fulmen.checkpoint.files": "checkpoints in older formats",
    "fulmen.checkpoint.state": "checkpoints in older formats",
    "fulmen.tools.command": "`fulmen run`",
}
# Old modules that only handed on what is torchmetrics' now; importing one means to use it.
WITH_METRICS = {"fulmen.compat.metrics", "fulmen.compat.functional"}
# `fulmen migrate` reads compat's tables, and scripts with libcst; the command imports it only when it is asked for.
MIGRATE = "fulmen.tools.migrate."
EXTRA_MODULES = 60


def graph() -> dict[str, set[str]]:
    return {name: imported_modules(module) for name, module in modules().items()}


def test_no_import_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail("These import each other: " + " -> ".join(reversed(error.args[1])))


def height(module: str) -> int:
    inside = module.removeprefix("fulmen.")
    return HEIGHT[inside] if inside in HEIGHT else HEIGHT[modules()[module].room]


def test_every_room_has_its_layer():
    none({m.room for m in modules().values()} - set(HEIGHT))


def test_nothing_imports_upward():
    edges = graph()
    upward = [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in others
        if edges[other] or not modules()[other].is_package  # an `__init__` that imports nothing brings nothing
        if height(other) > height(name)
    ]
    none(upward)


def test_compat_is_imported_at_its_seams_only():
    inside = ("fulmen.compat", MIGRATE)
    outside = {name: m for name, m in modules().items() if not name.startswith(inside)}
    asking = {name for name, m in outside.items() if any("compat" in x for x in imported_modules(m, everywhere=True))}
    at_import = {name for name, m in outside.items() if any("compat" in x for x in imported_modules(m))}
    assert asking == set(SEAMS)
    none(at_import)


def test_modules_import_torch_and_the_standard_library_only():
    known = {"torch", "typing_extensions", "fulmen"} | sys.stdlib_module_names  # torch brings typing_extensions
    foreign = [
        f"{module.place}:{line} imports {dotted}"
        for module in modules().values()
        for line, dotted in imported_names(module)
        if dotted.split(".")[0] not in known and module.name not in WITH_METRICS
        if not (dotted.startswith("libcst") and module.name.startswith(MIGRATE))
    ]
    none(foreign)


PROBE = """
import importlib, json, os, sys, torch
before = set(sys.modules)
report = {}
for name in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            importlib.import_module(name)
            said = sorted(set(sys.modules) - before)
        except BaseException as error:
            said = repr(error)
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        report[name] = json.loads(pipe.read())
    os.wait()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str] | str]:
    """For each module, imported first after torch: which modules came with it, or the error."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    names = [name for name in modules() if not re.search(r"__main__$|\.roots\.", name) and name not in WITH_METRICS]
    done = subprocess.run([sys.executable, "-c", PROBE, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_module_can_be_the_first_one_imported(imported):
    none(f"{name}: {said}" for name, said in imported.items() if isinstance(said, str))


def test_no_module_brings_a_package_beyond_torch(imported):
    optional = {"numpy", "rich", "yaml", "tensorboard", "tqdm", "torchmetrics", "wandb", "fsspec", "sklearn", "pandas"}
    brought = {name: sorted(optional & {x.split(".")[0] for x in said}) for name, said in imported.items()}
    none(f"{name}: {packages}" for name, packages in brought.items() if packages)


def test_importing_fulmen_adds_few_modules(imported):
    assert len(imported["fulmen"]) <= EXTRA_MODULES


def test_importing_the_trainer_adds_few_modules(imported):
    assert len(imported["fulmen.trainer"]) <= 2 * EXTRA_MODULES
