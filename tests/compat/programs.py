"""Programs for the tests to start, as `fulmen run` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent


def start(
    text: str, *arguments: str, python: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Write the program into program.py of the current folder and `fulmen run` it."""
    Path("program.py").write_text(dedent(text))
    return command([*python, "-m", "fulmen", "run", "program.py", *arguments], **environment)


def command(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def lines(text: str, *arguments: str, **environment: str) -> list[str]:
    """What the program prints, which must end well."""
    done = start(text, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
