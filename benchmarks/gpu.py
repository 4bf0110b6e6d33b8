"""Fulmen and Lightning beside the hand-written loop on a GPU: eager, compiled, with CUDA graphs.

    python benchmarks/gpu.py [--rounds 5]

Wall-clock time of a step; each run in a fresh process, in turn. Without a GPU the eager runs of the small models go to
the CPU, which shows that the script works, and the others are skipped by name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import environments
import report
import torch
from cases import GPU_CASES
from run import Framework, terminal

NAMES = ["raw", "fulmen", "lightning"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found = torch.cuda.is_available()
    if not found:
        args.rounds = 1
    for name, reason in environments.ready(NAMES).items():
        raise SystemExit(f"{name} {reason}")
    screen = terminal()
    frameworks = [Framework(name, screen, gpu=True) for name in NAMES]
    rows, skipped = [], []
    for name, case in GPU_CASES.items():
        if not found and (case.compile or case.data == "gpt"):
            skipped.append(f"- {case.title}: skipped, torch finds no GPU here")
            continue
        few = {} if found else {"steps": 20}
        rounds = [[framework.run(name, "alone", **few) for framework in frameworks] for _ in range(args.rounds)]
        cells = [case.title]
        for index in range(len(NAMES)):
            runs = [(one[index], one[0]) for one in rounds]
            if problem := next((one["error"] for one, _ in runs if "error" in one), None):
                cells.append(f"failed: {problem}")
            elif index == 0 or any("error" in raw for _, raw in runs):
                cells.append(f"{median(one['wall_min'] for one, _ in runs):,.0f} us")
            else:
                cells.append(report.spread([one["wall_min"] / raw["wall_min"] for one, raw in runs], between=", "))
        rows.append(cells)
        print(" | ".join(cells), flush=True)
    device = torch.cuda.get_device_name() if found else "no GPU: on the CPU"
    page = [
        "# Results on a GPU", "", f"`make bench-gpu`: {device}; {report.machine()}.", "",
        *report.table(["", *(report.TITLES[name] for name in NAMES)], rows), "", *skipped,
    ]  # fmt: skip
    print("\n".join(page))
    if found:
        Path(__file__).with_name("RESULTS-gpu.md").write_text("\n".join(page).rstrip() + "\n")


if __name__ == "__main__":
    main()
