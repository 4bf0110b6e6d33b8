"""results.json, and from it the tables of RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import plot
from cases import CASES

TITLES = {
    "raw": "hand-written loop", "fulmen": "Fulmen", "lightning": "Lightning", "fabric": "Fabric",
    "accelerate": "Accelerate", "transformers": "Transformers", "ignite": "Ignite", "torchtnt": "TorchTNT",
    "skorch": "skorch", "fastai": "fastai", "keras": "Keras",
}  # fmt: skip


def least(case: str, one: dict[str, float]) -> float:
    """Microseconds of a step in one run: of CPU time, and with several processes, which wait, of wall-clock time."""
    return one["wall_min" if case == "ddp" else "cpu_min"]


def ratios(found: dict[str, Any], case: str, name: str) -> list[float]:
    """Each round's figure over that of the hand-written loop in the same round."""
    base = found.get(CASES[case].beside or case, {}).get("raw", {}).get("rounds", [])
    rows = found[case].get(name, {}).get("rounds", [])
    return [round(least(case, one) / least(case, raw), 4) for one, raw in zip(rows, base, strict=False)]


def merge(path: Path, found: dict[str, Any], versions: dict[str, str], problems: dict[str, str], words: str) -> None:
    """Put what was found in the place of what the file had of the same, and write the page and the plot anew."""
    results = json.loads(path.read_text()) if path.exists() else {"cases": {}, "once": {}}
    for case, rows in found.items():
        for name, row in rows.items():
            if case not in CASES:
                results["once"].setdefault(case, {})[name] = row
            elif "rounds" in row:
                us = [round(least(case, one), 1) for one in row["rounds"]]
                rows_of = results["cases"].setdefault(case, {})
                counted = row.get("calls") or rows_of.get(name, {}).get("calls")
                rows_of[name] = {"ratios": ratios(found, case, name), "us": us, "calls": counted}
            else:
                results["cases"].setdefault(case, {})[name] = row
    results["versions"] = {**results.get("versions", {}), **versions}
    results["missing"] = {**{k: v for k, v in results.get("missing", {}).items() if k not in versions}, **problems}
    results["machine"] = machine()
    results["command"] = words
    path.write_text(json.dumps(results, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    path.with_name("RESULTS.md").write_text(page(results))
    path.with_name("results.svg").write_text(plot.draw(results, TITLES))


def machine() -> str:
    """In words: what it ran on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), model)
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({model}), {platform.system()}, Python "
        f"{platform.python_version()}, torch {version('torch')}, one thread, commit {commit}; load "
        f"{os.getloadavg()[2]:.1f}"
    )


# ---- the page


def page(results: dict[str, Any]) -> str:
    names = [name for name in TITLES if name in results["versions"]]
    text = [
        "# Results", "",
        f"`{results['command']}`: {results['machine']}.", "",
        ", ".join(f"{TITLES[n]} {results['versions'][n]}" for n in names if n not in ("raw", "fabric")) + ".", "",
        "![A step beside the hand-written loop](results.svg)", "",
        "## A step, as a ratio to the hand-written loop of the same round", "",
        "The median of the rounds, below it the least and the largest. A dash: the framework has no such thing, or "
        "none of its own. What each case does: [README.md](README.md).", "",
        *steps(results, names), "",
        "## Fulmen beside its goals", "",
        *goals(results), "",
        "## Python calls of a step", "",
        "Counted, so exact; the hand-written loop's own are among them.", "",
        *calls(results, names), "",
        *start(results, names),
    ]  # fmt: skip
    text += [f"{TITLES[name]}: {reason}." for name, reason in results["missing"].items()]
    return "\n".join(text).rstrip() + "\n"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    line = "| " + " | ".join(["---", *["--:"] * (len(head) - 1)]) + " |"
    return ["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)]


def spread(values: list[float], form: str = "{:.2f}", between: str = "<br><sub>") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(median(values))}{between}{low} to {high}{'</sub>' if 'sub' in between else ''}"


def grid(names: list[str], cases: list[str], cell: Callable[[str, str], str]) -> list[str]:
    return table(
        ["", *(TITLES[name] for name in names)],
        [[CASES[case].title, *(cell(case, name) for name in names)] for case in cases],
    )


def steps(results: dict[str, Any], names: list[str]) -> list[str]:
    cases = results["cases"]

    def cell(case: str, name: str) -> str:
        row = cases[case].get(name, {})
        if name == "raw":
            return f"{median(row['us']):,.0f} us"
        if "error" in row:
            return "failed"
        return spread(row["ratios"]) if row.get("ratios") else "-"

    failed = [
        f"- {CASES[case].title}, {TITLES[name]}: `{row['error']}`"
        for case in CASES
        for name, row in cases.get(case, {}).items()
        if "error" in row
    ]
    return [*grid(names, [case for case in CASES if case in cases], cell), *(["", *failed] if failed else [])]


def goals(results: dict[str, Any]) -> list[str]:
    rows = []
    for name, case in CASES.items():
        row = results["cases"].get(name, {}).get("fulmen", {})
        if row.get("ratios"):
            value = median(row["ratios"])
            beside = f" (of the loop over {CASES[case.beside].title})" if case.beside else ""
            met = "yes" if value <= case.goal else "no"
            rows.append([case.title + beside, f"{case.goal:.2f}", spread(row["ratios"], between=", "), met])
    return table(["", "at most", "measured", "met"], rows)


def calls(results: dict[str, Any], names: list[str]) -> list[str]:
    cases = results["cases"]

    def cell(case: str, name: str) -> str:
        count = cases[case].get(name, {}).get("calls")
        return f"{count:,.0f}" if count else "-"

    return grid(names, [case for case in CASES if cases.get(case, {}).get("raw", {}).get("calls")], cell)


def start(results: dict[str, Any], names: list[str]) -> list[str]:
    """Start-up, memory and checkpoints, as differences to the hand-written loop's."""
    once = results["once"]
    columns = {
        "import, ms": ("start", lambda one, raw: (one["import_cpu"] - raw["import_cpu"]) * 1e3, "{:+,.0f}"),
        "modules": ("start", lambda one, raw: one["modules"] - raw["modules"], "{:+,.0f}"),
        "first step, ms": ("start", lambda one, raw: (one["first_cpu"] - raw["first_cpu"]) * 1e3, "{:+,.0f}"),
        "peak memory, MiB": ("memory", lambda one, raw: one["peak"] - raw["peak"], "{:+,.0f}"),
        "growth, MiB": ("growth", lambda one, raw: one["resident"][-1] - one["resident"][1], "{:+,.1f}"),
        "save, s": ("checkpoint", lambda one, raw: one["save"], "{:.2f}"),
        "load, s": ("checkpoint", lambda one, raw: one["load"], "{:.2f}"),
    }
    if not once:
        return []

    def cell(name: str, column: str) -> str:
        mode, value, form = columns[column]
        pairs = zip(once.get(mode, {}).get(name, []), once.get(mode, {}).get("raw", []), strict=False)
        values = [value(one, raw) for one, raw in pairs if not {"error", "absent"} & {*one, *raw}]
        return spread(values, form) if values else "-"

    return [
        "## Start, memory, checkpoints",
        "",
        "Beyond the hand-written loop's: CPU time and modules of the import (after torch's), CPU time from the "
        "Trainer's constructor to the first step with everything on by default, peak resident memory of a bare run. "
        "Growth: resident memory after 50,000 logged steps beyond that after 10,000. Checkpoints: seconds for 191 MiB "
        "of weights with Adam's state, 573 MiB in all, on the disk.",
        "",
        *table(["", *columns], [[TITLES[name], *(cell(name, column) for column in columns)] for name in names]),
        "",
    ]
