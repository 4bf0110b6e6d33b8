"""Fulmen and its peers beside the loop that people write by hand.

    python benchmarks/run.py [--frameworks ...] [--cases ...] [--rounds 5] [--results FILE]

Round-robin: in each round every framework runs every case, each in a fresh process with a terminal. A ratio is taken
within a round. Times are CPU time of a step (with two processes: wall clock), the least of about ten chunks of a run.
Figures go to results.json, replacing those of the same cases and frameworks, then to RESULTS.md and results.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import environments
import report
from cases import CASES

HERE = Path(__file__).parent
WORKER = str(HERE / "worker.py")
ONCE = ("start", "memory", "growth", "checkpoint")
ALONE = (*ONCE, "alone")  # begun from nothing, where the others are forked


def terminal() -> int:
    """A terminal that somebody reads, so that progress bars draw as they do for people."""
    reader, writer = pty.openpty()

    def drain() -> None:
        try:
            while os.read(reader, 65536):
                pass
        except OSError:
            pass

    threading.Thread(target=drain, daemon=True).start()
    return writer


class Framework:
    """A process that has imported the framework and forks for each job."""

    def __init__(self, name: str, screen: int, gpu: bool = False) -> None:
        self.name, self.screen = name, screen
        self.python, self.env = str(environments.python(name)), environments.environment(gpu)
        self.process: subprocess.Popen[str] | None = None
        self.version = self.problem = ""

    def start(self) -> None:
        """Have the process up; a framework that cannot be imported has a problem instead of a version."""
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            [self.python, WORKER, self.name], env={**self.env, "ANSWERS": str(writer)}, stdin=subprocess.PIPE,
            stdout=self.screen, stderr=self.screen, pass_fds=[writer], text=True,
        )  # fmt: skip
        os.close(writer)
        self.answers = os.fdopen(reader)
        said = self.answers.readline().strip()
        self.problem, self.version = (said[6:], "") if said.startswith("error") else ("", said)

    def run(self, case: str, mode: str = "time", **more: Any) -> dict[str, Any]:
        """One job in a fresh process: forked from ours, or (two ranks, start-up) begun from nothing."""
        folder = tempfile.mkdtemp(prefix="bench-")
        result = os.path.join(folder, "result")
        job = json.dumps({"case": case, "mode": mode, "result": result, **more})
        try:
            if case != "ddp" and mode not in ALONE:
                self._forked(job)
            else:
                ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if case == "ddp" else []
                command = [self.python, *ranks, WORKER, self.name, job]
                subprocess.run(command, env=self.env, stdout=self.screen, stderr=self.screen, timeout=300)
            with open(result) as file:
                return json.load(file)
        except (FileNotFoundError, BrokenPipeError, subprocess.TimeoutExpired) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _forked(self, job: str) -> None:
        if self.process is None:
            self.start()
        assert self.process is not None
        print(job, file=self.process.stdin, flush=True)
        self.answers.readline()

    def stop(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def one_round(frameworks: list[Framework], cases: list[str], found: dict[str, dict[str, Any]]) -> None:
    """Every case of every framework once: one more result in `found`, or why there is none."""
    for case in cases:
        for framework in frameworks:
            seen = found[case].setdefault(framework.name, {"rounds": []})
            if "rounds" not in seen:
                continue
            one = framework.run(case)
            if "error" in one or "absent" in one:
                found[case][framework.name] = one
            else:
                seen["rounds"].append(one)
        fulmen = report.ratios(found, case, "fulmen")
        print(f"  {case:<11} fulmen {fulmen[-1]:.2f}" if fulmen else f"  {case}", flush=True)


def calls(frameworks: list[Framework], found: dict[str, dict[str, Any]]) -> None:
    """Python calls a step, which are exact after one run."""
    for case, rows in found.items():
        for framework in frameworks:
            if CASES[case].data == "ready" and case != "ddp" and "rounds" in rows[framework.name]:
                rows[framework.name]["calls"] = framework.run(case, "calls").get("calls")


def once(frameworks: list[Framework], count: int, mode: str) -> dict[str, dict[str, Any]]:
    """What is not a matter of steps: start-up, memory, checkpoints; each in a process begun from nothing."""
    case, steps = {
        "start": ("default", 20),
        "memory": ("step", 500),
        "growth": ("log", 50_000),
        "checkpoint": ("step", 2),
    }[mode]
    found: dict[str, list[dict[str, Any]]] = {framework.name: [] for framework in frameworks}
    for _ in range(1 if mode == "growth" else count):
        for framework in frameworks:
            if mode != "growth" or framework.name in ("raw", "fulmen", "lightning"):  # others would take minutes
                found[framework.name].append(framework.run(case, mode, steps=steps))
    print(f"{mode} done", flush=True)
    return {mode: found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="*", default=environments.FRAMEWORKS)
    parser.add_argument("--cases", nargs="*", default=[*CASES, *ONCE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    begin, names = time.time(), list(dict.fromkeys(["raw", *args.frameworks]))
    problems = environments.ready(names)
    screen = terminal()
    frameworks = [Framework(name, screen) for name in names if name not in problems]
    for framework in frameworks:
        framework.start()
        if framework.problem:
            problems[framework.name] = f"cannot be imported: {framework.problem}"
    frameworks = [framework for framework in frameworks if not framework.problem]
    words = " ".join(["python benchmarks/run.py", *sys.argv[1:]])
    versions = {framework.name: framework.version for framework in frameworks}
    cases = [case for case in args.cases if case in CASES]
    found: dict[str, dict[str, Any]] = {case: {} for case in cases}
    for turn in range(args.rounds if cases else 0):
        print(f"round {turn + 1}, {time.time() - begin:.0f} s", flush=True)
        one_round(frameworks, cases, found)
        report.merge(args.results, found, versions, problems, words)  # a run that is cut off leaves what it had
    calls(frameworks, found)
    for mode in (mode for mode in args.cases if mode in ONCE):
        found |= once(frameworks, args.rounds, mode)
        report.merge(args.results, found, versions, problems, words)
    for framework in frameworks:
        framework.stop()
    report.merge(args.results, found, versions, problems, words)
    print(f"{time.time() - begin:.0f} s; see {args.results.with_name('RESULTS.md')}")


if __name__ == "__main__":
    main()
