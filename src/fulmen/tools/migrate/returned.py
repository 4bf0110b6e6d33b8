"""Dicts that steps and epoch ends return: what was in them for loggers, bar and callbacks becomes self.log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from fulmen.tools.migrate.classes import is_called, owners
from fulmen.tools.migrate.script import OpenError, Script, Values, literal, statement, without_items

KEYS = ("log", "progress_bar")
BAR, LOG, BOTH, NEITHER = ", prog_bar=True, logger=False", "", ", prog_bar=True", ", logger=False"
PLAIN = (cst.List, cst.Tuple, cst.Dict, cst.SimpleString, cst.ListComp, cst.DictComp)
"""Values that nobody can log; they were in the dict for others."""


@dataclass(frozen=True, eq=False)
class Returned:
    """A dict that a function returns: where it is written, and in which statement."""

    display: cst.Dict
    made: Any  # the Return, or the Assign to the name that is returned

    @property
    def keys(self) -> list[str]:
        """Its keys, "" for those that are no plain strings."""
        return [(literal(e.key) if isinstance(e, cst.DictElement) else "") or "" for e in self.display.elements]


def rewrite(script: Script) -> None:
    """training_step of all modules; what other functions return is the matter of the ends of epochs."""
    for owner in owners(script):
        function = owner.methods.get("training_step")
        if owner.kind == "LightningModule" and function is not None:
            for one in returned(script, function)[0]:
                if {*KEYS} & {*one.keys}:
                    try:
                        _training_step(script, function, one)
                    except OpenError as error:
                        sentence = f"what {owner.name}.training_step returns is left, because {error}; it still works."
                        script.leave(one.display, sentence)


def returned(script: Script, function: cst.FunctionDef) -> tuple[list[Returned], list[cst.Return]]:
    """The dicts that are written in the function and returned, and the statements that return something else."""
    found, others = [], []
    for node in script.all(cst.Return, function.body):
        if script.method_of(node) is not function:
            continue
        display = _display(node.value)
        if display is not None:
            found.append(Returned(display, node))
        elif isinstance(node.value, cst.Name) and (made := assigned(script, function, node.value.value)) is not None:
            if made not in [one.made for one in found]:
                found.append(Returned(_display(made.value), made))  # type: ignore[arg-type]
        elif node.value is not None:
            others.append(node)
    return found, others


def _display(value: cst.BaseExpression | None) -> cst.Dict | None:
    """The {...} of a value, bare or in OrderedDict(...) or dict(...)."""
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Name) and len(value.args) == 1:
        value = value.args[0].value if value.func.value in ("dict", "OrderedDict") else None
    return value if isinstance(value, cst.Dict) else None


def assigned(script: Script, function: cst.FunctionDef, name: str) -> cst.Assign | None:
    """The one assignment of a dict to a name that is only returned, logged or passed on whole."""
    assigns = [node for node in script.all(cst.Assign, function.body) if script.code(node.targets[0].target) == name]
    if len(assigns) != 1 or _display(assigns[0].value) is None:
        return None
    for use in script.all(cst.Name, function.body):
        parent = script.parents[use]
        fine = isinstance(parent, (cst.Return, cst.AssignTarget, cst.DictElement))
        if use.value == name and not fine:
            return None
    return assigns[0]


def logged(script: Script, function: cst.FunctionDef, one: Returned, wanted: Callable[[str], bool]) -> list[str]:
    """How each value is logged: a line of code for each, with `given_0` for the value of the dict's first item."""
    places = {key: place for place, key in enumerate(one.keys)}
    if "" in places or len(places) < len(one.display.elements):
        raise OpenError("not all keys of what it returns are plain strings")
    values = {key: one.display.elements[place].value for key, place in places.items()}
    more = [key for key in places if key not in KEYS and wanted(key) and not isinstance(values[key], PLAIN)]
    same = "log" in values and "progress_bar" in values and values["log"].deep_equals(values["progress_bar"])
    found = {key: _keys(script, function, values[key]) for key in KEYS[: 2 - same] if key in values}
    if None in found.values() and (more or len(found) > 1):
        raise OpenError("the same name may be in more than one part of what it returns")
    names = {key: keys or [] for key, keys in found.items()}
    known = {name for keys in names.values() for name in keys}
    _check_other_logs(script, function, known | {*more})
    lines = [f"self.log(key_{places[key]}, given_{places[key]}{NEITHER})" for key in more if key not in known]
    shared = {*names.get("log", ())} & {*names.get("progress_bar", ())}
    for key, own in names.items():
        options = BOTH if same else LOG if key == "log" else BAR
        for name in own if shared else [None]:
            if name not in shared or key == "log":
                lines += _part(values[key], places[key], name, BOTH if name in shared else options)
    return lines


def _keys(script: Script, function: cst.FunctionDef, node: cst.BaseExpression) -> list[str] | None:
    """The keys of a dict that is written here, or assigned to a local name; None where they are not all known."""
    display = _display(node)
    if isinstance(node, cst.Name):
        made = assigned(script, function, node.value)
        display = _display(made.value) if made is not None else None
    if display is None:
        return None
    keys = Returned(display, None).keys
    return None if "" in keys else keys


def _part(value: cst.BaseExpression, place: int, name: str | None, options: str) -> list[str]:
    """Code that logs a dict, or one of its values."""
    display = _display(value)
    items = [] if display is None else display.elements
    if items and all(isinstance(item, cst.DictElement) for item in items):
        kept = [i for i, item in enumerate(items) if name in (None, literal(item.key))]  # type: ignore[union-attr]
        return [f"self.log(key_{place}_{i}, given_{place}_{i}{options})" for i in kept]
    if name is not None:
        return [f'self.log("{name}", given_{place}["{name}"]{options})']
    return [f"self.log_dict(given_{place}{options})"]


def _check_other_logs(script: Script, function: cst.FunctionDef, names: set[str]) -> None:
    for call in script.all(cst.Call, function.body):
        code = script.code(call.func)
        if code == "self.log_dict" or (code == "self.log" and literal(call.args[0].value) in {None, *names}):
            raise OpenError("it calls self.log as well")


def calls_of(old: Any, lines: Sequence[str]) -> list[Any]:
    """The lines as statements, with the values of the dict that is written in the statement `old`."""
    values: dict[str, Any] = {}
    display: Any = _display(old.value)
    for place, item in enumerate(display.elements):
        values[f"given_{place}"], values[f"key_{place}"] = item.value, getattr(item, "key", None)
        inner = _display(item.value)
        for i, one in enumerate(inner.elements if inner else ()):
            values[f"given_{place}_{i}"], values[f"key_{place}_{i}"] = one.value, getattr(one, "key", None)
    return [statement(line).visit(Values(values)) for line in lines]


def _training_step(script: Script, function: cst.FunctionDef, one: Returned) -> None:
    """The dict keeps what is not to be logged."""
    if is_called(script, "training_step"):
        raise OpenError("training_step is called by other code")
    monitored = _monitored(script)
    lines = logged(script, function, one, lambda key: key != "hiddens" and not monitored.isdisjoint({key, "*"}))
    places = [place for place, key in enumerate(one.keys) if key not in KEYS]
    if not places:
        raise OpenError("there is no 'loss'")

    def make(old: Any) -> list[Any]:
        display: Any = _display(old.value)
        kept = old.deep_replace(display, without_items(display, places))
        return [*calls_of(old, lines), kept]

    script.rewrite(one.made, make)


def _monitored(script: Script) -> set[str]:
    """Names of metrics that may be asked for: strings that are arguments or keys of something, "*" for all."""
    places = (cst.Arg, cst.Index)
    read = [script.parents[node] for node in script.all(cst.Attribute) if node.attr.value == "callback_metrics"]
    every = {"*"} if any(not isinstance(node, cst.Subscript) for node in read) else set()
    strings = {literal(node) for node in script.all(cst.SimpleString) if isinstance(script.parents[node], places)}
    return {string or "" for string in strings} | every
