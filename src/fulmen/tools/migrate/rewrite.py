"""All rewriting of one file."""

from __future__ import annotations

import re

import libcst as cst

from fulmen.compat.names import ROOTS
from fulmen.tools.migrate import constructors, ends, hooks, imports, optimizers, returned, schedulers, trainer
from fulmen.tools.migrate.script import Script

CONCERNED = re.compile(rf"\b({'|'.join(ROOTS)}|fulmen)\b".encode())


def migrate(source: bytes) -> tuple[bytes, list[tuple[int, str]], bool]:
    """The new text of a file, the lines and sentences on what is left in it, and whether old imports are among that.

    Raises ValueError if it is not Python.
    """
    if not CONCERNED.search(source):
        return source, [], False
    try:
        script = Script(source)
    except (cst.ParserSyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"this is not Python: {str(error).splitlines()[0]}") from None
    for subject in (trainer, constructors, returned, ends, optimizers, schedulers, hooks):
        subject.rewrite(script)
    imports.rewrite(script)  # last, when it is known what is left
    new = script.result() if script.edits else source
    cst.parse_module(new)
    return new, sorted(script.notes), bool(script.kept)
