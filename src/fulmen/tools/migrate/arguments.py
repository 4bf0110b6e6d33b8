"""Arguments of a call put in the place of others, the form of the call kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import libcst as cst

from fulmen.tools.migrate.script import Values, closing

GIVEN = "given_as_"
"""In new code, `given_as_gpus` stands for the value that the argument `gpus` has in the call."""


def spell(call: cst.Call, new: Mapping[str, Sequence[str]], callbacks: Sequence[str] = (), place: str = "") -> cst.Call:
    """Put the codes of `new[name]` in the place of the argument `name`, and add to the list of callbacks."""
    named = {arg.keyword.value: arg.value for arg in call.args if arg.keyword}
    values = Values({f"{GIVEN}{name}": value for name, value in named.items()})
    new = {name: [*codes] for name, codes in new.items()}
    if callbacks:
        listed = named.get("callbacks")
        old = [] if listed is None else [f"*{GIVEN}callbacks"]
        place = "callbacks" if listed is not None else place
        new.setdefault(place, []).append(f"callbacks=[{', '.join([*old, *callbacks])}]")
    args: list[Any] = []
    for arg in call.args:
        codes = new.get(arg.keyword.value) if arg.keyword else None
        made = [arg] if codes is None else [_argument(code, values) for code in codes]
        args += [one.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))) for one in made[:-1]]
        args += [one.with_changes(comma=arg.comma, whitespace_after_arg=arg.whitespace_after_arg) for one in made[-1:]]
    if not args:
        return call.with_changes(args=[], whitespace_before_args=cst.SimpleWhitespace(""))
    last = call.args[-1]
    args[-1] = closing(args[-1], last).with_changes(whitespace_after_arg=last.whitespace_after_arg)
    return call.with_changes(args=args)


def _argument(code: str, values: Values) -> cst.Arg:
    call: Any = cst.parse_expression(f"f({code})")
    argument: Any = call.args[0].visit(values)
    value = argument.value
    if isinstance(value, cst.List) and isinstance(value.elements[0], cst.StarredElement):
        old = value.elements[0].value
        if isinstance(old, cst.List):  # no [*[a], b] but [a, b]
            argument = argument.with_changes(value=_joined(old, value.elements[1:]))
    return argument


def _joined(old: cst.List, more: Sequence[Any]) -> cst.List:
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    elements = [*old.elements]
    if elements:
        last = elements[-1].comma
        elements[-1] = elements[-1].with_changes(comma=comma)
        more = [*more[:-1], more[-1].with_changes(comma=last)]
    return old.with_changes(elements=[*elements, *more])
