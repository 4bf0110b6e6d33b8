"""The modules, data modules and callbacks that a file defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from fulmen.compat.hooks import ENDS
from fulmen.tools.migrate.script import Script, closing

KINDS = ("LightningModule", "LightningDataModule", "Callback")


@dataclass(frozen=True)
class Owner:
    """A class with hooks; `sure` if all its bases are known."""

    node: cst.ClassDef
    kind: str
    sure: bool
    methods: dict[str, cst.FunctionDef]

    @property
    def base(self) -> cst.BaseExpression:
        return self.node.bases[0].value

    @property
    def name(self) -> str:
        return self.node.name.value


def owners(script: Script) -> list[Owner]:
    found: dict[str, Owner] = {}
    for node in script.all(cst.ClassDef):
        bases = [_kind(script, base.value, found) for base in node.bases if base.keyword is None]
        methods = {one.name.value: one for one in node.body.body if isinstance(one, cst.FunctionDef)}
        foreign = any(not script.dotted(base.value).startswith("torch.") for base in node.bases)
        looks = "LightningModule" if foreign and methods.keys() & {"training_step", *ENDS} else ""
        kind = next((kind for kind in bases if kind), looks)
        if kind:
            sure = all(bases) and all(found[b].sure for base in node.bases if (b := script.code(base.value)) in found)
            found[node.name.value] = Owner(node, kind, sure, methods)
    return list(found.values())


def _kind(script: Script, base: cst.BaseExpression, found: dict[str, Owner]) -> str:
    code, home = script.code(base), script.home(base)
    if code in found:
        return found[code].kind
    name = home.rpartition(":")[2]
    return name if name in KINDS else "Callback" if home.startswith("fulmen.callbacks:") else ""


def parameters(function: cst.FunctionDef) -> list[str]:
    """Names of the parameters behind `self`."""
    return [p.name.value for p in (*function.params.posonly_params, *function.params.params)][1:]


def is_open(function: cst.FunctionDef) -> bool:
    """Whether it takes any number of arguments."""
    return isinstance(function.params.star_arg, cst.Param)


def uses(script: Script, function: cst.FunctionDef, name: str) -> bool:
    return any(node.value == name for node in script.all(cst.Name, function.body))


def is_called(script: Script, name: str) -> bool:
    """Whether a method is named anywhere as an attribute, such as in `super().on_epoch_end()`."""
    return any(node.attr.value == name for node in script.all(cst.Attribute))


def without(function: cst.FunctionDef, names: Sequence[str]) -> cst.FunctionDef:
    """The function without some of its parameters."""
    params = [param for param in function.params.params if param.name.value not in names]
    params[-1] = closing(params[-1], function.params.params[-1])
    return function.with_deep_changes(function.params, params=params)


def with_more(function: cst.FunctionDef, codes: Sequence[str]) -> cst.FunctionDef:
    """The function with parameters behind those that it has."""
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    made: Any = cst.parse_statement(f"def f({', '.join(codes)}): pass")
    params = [*function.params.params, *made.params.params]
    params = [*(one.with_changes(comma=comma) for one in params[:-1]), params[-1]]
    return function.with_deep_changes(function.params, params=params)


def method(code: str) -> Any:
    """A method from its code, with the empty line that goes before it."""
    made = cst.parse_statement(code)
    return made.with_changes(leading_lines=[cst.EmptyLine(indent=False)])


def starting_with(function: cst.FunctionDef, code: str) -> cst.FunctionDef:
    """The function with a statement before its others, behind its docstring."""
    line, body = cst.parse_statement(code), function.body
    if isinstance(body, cst.SimpleStatementSuite):
        return function.with_changes(body=cst.IndentedBlock([line, cst.SimpleStatementLine(body.body)]))
    lines = list(body.body)
    after = 1 if function.get_docstring() is not None else 0
    return function.with_changes(body=body.with_changes(body=[*lines[:after], line, *lines[after:]]))
