"""Machine instructions of a step, counted by valgrind: the same number on a busy machine as on an idle one.

    python benchmarks/instructions.py [FRAMEWORK:CASE ...]      about three minutes each; fulmen:step beside raw:step

A long run less a short one, so that what happens once a run is left out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environments

SHORT, LONG = 100, 400


def count(framework: str, case: str, steps: int) -> int:
    """Instructions of a whole process that takes so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        job = {"case": case, "mode": "instructions", "steps": steps, "result": str(result)}
        done = subprocess.run(
            ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
             environments.python(framework), Path(__file__).with_name("worker.py"), framework, json.dumps(job)],
            env={**environments.environment(), "PYTHONHASHSEED": "0"}, capture_output=True, text=True,
        )  # fmt: skip
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        if found is None or "error" in (said := json.loads(result.read_text())):
            raise SystemExit(f"{framework}:{case} {said if found else done.stderr[-400:]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    if shutil.which("valgrind") is None:
        raise SystemExit("instructions.py needs valgrind.")
    for entry in sys.argv[1:] or ["raw:step", "fulmen:step"]:
        framework, case = entry.split(":")
        environments.ready([framework])
        each = (count(framework, case, LONG) - count(framework, case, SHORT)) / (LONG - SHORT)
        print(f"{entry:<24}{each:12,.0f} instructions a step", flush=True)


if __name__ == "__main__":
    main()
