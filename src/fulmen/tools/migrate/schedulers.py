"""A plateau scheduler says what it watches."""

from __future__ import annotations

import re

import libcst as cst

from fulmen.tools.migrate.classes import owners
from fulmen.tools.migrate.script import Script

NAME = "configure_optimizers"


def rewrite(script: Script) -> None:
    """`return [optimizer], [scheduler]`: such a scheduler watched "val_loss" if nothing was said."""
    for function in [one.methods[NAME] for one in owners(script) if NAME in one.methods]:
        made = [node for node in script.all(cst.Assign, function) if isinstance(node.value, cst.Call)]
        calls = {script.code(node.targets[0].target): script.code(node.value) for node in made}
        for node in script.all(cst.Return, function):
            value = node.value
            schedulers = value.elements[-1].value if isinstance(value, cst.Tuple) and len(value.elements) == 2 else None
            for element in schedulers.elements if isinstance(schedulers, cst.List) else ():
                code = script.code(element.value)
                if not calls.get(code, code).partition("(")[0].endswith("ReduceLROnPlateau"):
                    continue
                if not isinstance(element.value, cst.Dict):
                    script.edit(element.value, _watching)
                elif not re.search(r"""["']monitor["']""", code):
                    script.edit(element.value, _and_watching)


def _and_watching(config: cst.Dict) -> cst.Dict:
    *before, last = config.elements
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    monitor = cst.ensure_type(cst.parse_expression('{"monitor": "val_loss"}'), cst.Dict).elements
    return config.with_changes(elements=[*before, last.with_changes(comma=comma), *monitor])


def _watching(scheduler: cst.BaseExpression) -> cst.Dict:
    watching = cst.ensure_type(cst.parse_expression('{"scheduler": 0, "monitor": "val_loss"}'), cst.Dict)
    first = watching.elements[0].with_changes(value=scheduler)
    return watching.with_changes(elements=[first, *watching.elements[1:]])
