"""What is left above the hand-written loop, function by function.

    python benchmarks/leftover.py [CASE ...] [--framework fulmen] [--rounds 5]

Calls and own time, in a step, of the functions that Fulmen calls more or less often than the hand-written loop does;
what both call equally is left out. The profiler makes Python functions look dearer than they are, by about half a
microsecond a call. The table goes to PROFILE.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import environments
import report
from cases import CASES
from run import Framework, terminal

Rows = dict[str, tuple[float, float]]  # function: calls and own microseconds of a step


def least(framework: Framework, case: str, rounds: int) -> Rows:
    """Each function's least own time over the rounds."""
    found: Rows = {}
    for _ in range(rounds):
        one = framework.run(case, "profile")
        if "functions" not in one:
            raise SystemExit(f"{framework.name} {case}: {one}")
        for name, calls, own in one["functions"]:
            found[name] = calls, min(own, found[name][1] if name in found else own)
    return found


def short(name: str) -> str:
    """The function's place without the machine's folders."""
    name = re.sub(r"^.*/(?:site-packages|src|benchmarks|python3\.\d+)/", "", name)
    return re.sub(r" at 0x[0-9a-f]+", "", name).replace("|", "/")


def differences(ours: Rows, theirs: Rows, smallest: float = 0.01) -> Iterable[list[str]]:
    rows = []
    for name in {*ours, *theirs}:
        (calls, own), (other_calls, other) = ours.get(name, (0.0, 0.0)), theirs.get(name, (0.0, 0.0))
        if abs(calls - other_calls) >= smallest:
            rows.append((own - other, calls - other_calls, name))
    for own, calls, name in sorted(rows, reverse=True):
        yield [f"`{short(name)}`", f"{calls:+.2f}", f"{own:+.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["step", "log", "validate", "predict"])
    parser.add_argument("--framework", default="fulmen")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    environments.ready(["raw", args.framework])
    screen = terminal()
    raw, framework = (Framework(name, screen) for name in ("raw", args.framework))
    text = ["# What is left above the hand-written loop", "", *(__doc__ or "").split("\n\n")[-1].split("\n")]
    for case in args.cases:
        rows = differences(least(framework, case, args.rounds), least(raw, case, args.rounds))
        title = f"## {report.TITLES[args.framework]}, {CASES[case].title}"
        text += ["", title, "", *report.table(["function", "calls a step", "own us a step"], list(rows))]
    print("\n".join(text))
    Path(__file__).with_name("PROFILE.md").write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
