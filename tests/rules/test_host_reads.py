"""Nothing on a step's way waits for the device: no value of a tensor is read there."""

from __future__ import annotations

import ast

from rules.house import Module, modules

ROOMS = ("loop", "strategy", "precision", "logs")
READS = {"item", "cpu", "tolist", "numpy"}
CONVERSIONS = {"float", "bool"}

# Functions that are there to read values, or that run once a run.
MAY_READ: dict[str, str] = {}


def reads(module: Module) -> list[str]:
    """Where the module reads what may be a tensor's value, as "file: function"."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = f"{function}.{node.name}" if function else node.name
        elif isinstance(node, ast.ClassDef):
            function = node.name
        if isinstance(node, ast.Call) and _is_read(node):
            found.append(f"{module.place}: {function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(module.tree, "")
    return found


def _is_read(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in READS
    return (
        isinstance(call.func, ast.Name)
        and call.func.id in CONVERSIONS
        and bool(call.args)
        and not isinstance(call.args[0], ast.Constant)
    )


def test_the_step_reads_no_tensor():
    found = {place for module in modules().values() if module.room in ROOMS for place in reads(module)}
    assert found - set(MAY_READ) == set()


def test_every_exception_is_still_needed():
    found = {place for module in modules().values() if module.room in ROOMS for place in reads(module)}
    assert set(MAY_READ) - found == set()
