"""`fulmen replay FILE`: the program of a captured step is started once more, and runs only that step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fulmen.errors import CheckpointError
from fulmen.loop.replay import FILE, read


def main(path: str, program: list[str], trust: bool) -> int:
    """Start `program` (a script and its arguments), by default the one that the file names; its exit status."""
    environ = {**os.environ, FILE: os.path.abspath(path)}
    if trust:
        environ["FULMEN_REPLAY_TRUST"] = os.environ["FULMEN_REPLAY_TRUST"] = "1"
    held = read(path)
    if "command" not in held:
        raise CheckpointError(f"{path!r} holds no captured step; `fulmen checkpoint show` tells what is in it.")
    folder = os.getcwd() if program else held["folder"]
    words = program or held["command"]
    if not program and not _is_own(words, folder):
        raise CheckpointError(
            f"{path!r} was captured by a program that cannot be found here ({' '.join(words) or 'a notebook'}): give "
            f"its script and arguments, `fulmen replay {path} SCRIPT ...`."
        )
    print(f"Running {' '.join(words)} up to its fit ...", flush=True)
    return subprocess.run([sys.executable, *words], cwd=folder, env=environ).returncode


def _is_own(words: list[str], folder: str) -> bool:
    """A script, or a module of the folder that the program ran in: a file cannot name any other command."""
    if words[:1] == ["-m"] and len(words) > 1:
        script = Path(folder, *words[1].split("."))
        return script.with_suffix(".py").is_file() or (script / "__main__.py").is_file()
    return bool(words) and Path(folder, words[0]).suffix == ".py" and Path(folder, words[0]).is_file()
