"""`fulmen run ...`: what `python ...` does, with the old import names meaning Fulmen.

The interpreter starts anew in the same process, with the folder `roots/` on PYTHONPATH. So the script's arguments,
`__main__`, exit code and tracebacks are Python's own, and every process that the script starts has the alias as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from fulmen.compat import search_path

USAGE = "usage: fulmen run SCRIPT [ARGUMENT ...], or fulmen run -m MODULE [ARGUMENT ...]"


def main(arguments: Sequence[str]) -> int:
    """Run `python` with these arguments; returns only where a process cannot replace itself (Windows)."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    os.environ["PYTHONPATH"] = search_path()
    command = [sys.executable, *interpreter_options(), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    return subprocess.call(command) if os.name == "nt" else os.execv(sys.executable, command)


def interpreter_options() -> list[str]:
    """The options given to the interpreter that runs `fulmen`, such as -u, -O, -W and -X."""
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # ends with "-m fulmen" or the command's path
    return before[:-2] if before[-2:-1] == ["-m"] else before[:-1]
