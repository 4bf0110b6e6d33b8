"""The other ranks of this machine: the same program, run again by the first rank, which watches over them."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from functools import cache
from multiprocessing import active_children
from signal import Signals
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from fulmen.device import cores
from fulmen.errors import MisconfigurationException
from fulmen.strategy.environment import ClusterEnvironment

GRACE_S = 4.0
"""How long a rank may take to notice by itself that another one is gone, and to end in good order."""


class Children:
    """The processes that this one has started, by global rank; they stay for all later calls."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.store: dist.TCPStore | None = None
        self.joined = False
        self.working = False
        self.ended = False
        self.first_death: tuple[int, int] | None = None

    def start(self, rank: int, variables: dict[str, str]) -> None:
        """Run the program again as `rank`."""
        process = subprocess.Popen(command(), env={**os.environ, **variables}, stdin=subprocess.DEVNULL)
        self.processes[rank] = process
        threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if self.first_death is not None or (code == 0 and self.joined):
            return
        self.first_death = (rank, code)
        time.sleep(GRACE_S)
        if not self.ended:
            print(f"rank 0: {self.obituary()}", file=sys.stderr, flush=True)
            if self.working:  # in a collective that will never come back
                self.leave()

    def obituary(self) -> str:
        """Which rank ended first, and how."""
        ended = [(rank, process.returncode) for rank, process in self.processes.items() if process.poll() is not None]
        rank, code = self.first_death or ended[0]
        return f"rank {rank} (process {self.processes[rank].pid}) {how_it_ended(code)}."

    def is_alive(self, every: bool) -> bool:
        """Whether any of them, or every one, is still there."""
        alive = [process.poll() is None for process in self.processes.values()]
        return all(alive) if every else any(alive)

    def wait(self, seconds: float, every: bool) -> None:
        """Wait while any of them is there, or while `every` one is."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and self.is_alive(every):
            time.sleep(0.02)

    def end(self) -> None:
        """Terminate all of them, and kill those that do not follow."""
        self.ended = True
        for process in self.processes.values():
            process.terminate()
        self.wait(GRACE_S / 2, every=False)
        for process in self.processes.values():
            process.kill()

    def leave(self) -> NoReturn:
        """End them and this process, which may be stuck, with status 1."""
        self.end()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)

    def finish(self) -> None:
        """At the end of this process: wait until they have done what the program does after training."""
        self.wait(30, every=False)
        if self.is_alive(every=False):
            print("rank 0: done; waiting for the other ranks to end.", file=sys.stderr, flush=True)
            self.wait(float("inf"), every=False)
        if any(process.returncode for process in self.processes.values()):
            print(f"rank 0: {self.obituary()}", file=sys.stderr, flush=True)
            self.leave()


def how_it_ended(code: int) -> str:
    """The exit code of a process in words."""
    return f"was killed by {Signals(-code).name}" if code < 0 else f"ended early with exit code {code}"


started: Children | None = None
"""Those of this process."""


def start(environment: ClusterEnvironment, num_processes: int) -> Children:
    """Start the other ranks of this machine, unless that was done before; this process is the first of them."""
    global started
    if started is not None:
        if started.ended or not started.is_alive(every=True):
            raise RuntimeError(f"{started.obituary()} A rank cannot be started again; start the program anew.")
        return started
    children = Children()
    children.store = meet(environment, is_host=environment.node_rank() == 0)
    torch.set_num_threads(threads(num_processes))
    _end_after_exceptions(children)
    started = children
    for local_rank in range(1, num_processes):
        variables = place(environment, children.store.port, local_rank, num_processes)
        children.start(int(variables["RANK"]), variables)
    return children


def meet(environment: ClusterEnvironment, is_host: bool) -> dist.TCPStore:
    """The store where all ranks meet. Its host, on the first machine, takes a free port before anybody else can."""
    address, port = environment.main_address, environment.main_port
    return dist.TCPStore(address, port, is_master=is_host, wait_for_workers=False)


def place(environment: ClusterEnvironment, port: int, local_rank: int, num_processes: int) -> dict[str, str]:
    """The variables from which a started process learns its place."""
    numbers = {
        "MASTER_PORT": port,
        "WORLD_SIZE": environment.world_size(),
        "RANK": environment.node_rank() * num_processes + local_rank,
        "LOCAL_RANK": local_rank,
        "NODE_RANK": environment.node_rank(),
        "OMP_NUM_THREADS": threads(num_processes),
        "FULMEN_PARENT": os.getpid(),
    }
    return {"MASTER_ADDR": environment.main_address, **{name: str(number) for name, number in numbers.items()}}


def threads(num_processes: int) -> int:
    """The part of the cores that each process gets, unless OMP_NUM_THREADS says it."""
    return int(os.environ.get("OMP_NUM_THREADS", max(1, cores() // num_processes)))


def command() -> list[str]:
    """The command line of this program, with a script's path written out, as the working folder may have changed."""
    words = sys.orig_argv[1:]
    if hasattr(sys, "ps1") or not words or "-" in words:
        raise MisconfigurationException(
            "strategy='ddp' runs the program again for each device, which is not possible in a notebook or an "
            "interactive session. Use strategy='ddp_notebook'."
        )
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    for position, word in enumerate(words):
        if script and os.path.basename(word) == os.path.basename(script):
            words[position] = os.path.abspath(script)
            break
    return [sys.executable, *words, *_hydra_arguments()]


def _hydra_arguments() -> list[str]:
    """Under Hydra all ranks write into the folder of the first."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return []
    return [f'hydra.run.dir="{hydra.HydraConfig.get().runtime.output_dir}"', "hydra.output_subdir=null"]


def _end_after_exceptions(children: Children) -> None:
    """An exception that ends this process ends the others too, wherever it comes from."""
    previous = sys.excepthook

    def hook(*exc_info: Any) -> None:
        previous(*exc_info)
        children.end()

    sys.excepthook = hook


def pass_on(number: int) -> None:
    """Send a signal that this process got to those that work in its place."""
    for process in active_children():
        if process.pid is not None:
            os.kill(process.pid, number)


@cache
def follow_parent(rank: int) -> int:
    """The process that started this one with `place`, or 0; when that one is gone, this one ends."""
    parent = int(os.environ.pop("FULMEN_PARENT", 0))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        print(
            f"rank {rank}: the rank that started it (process {parent}) died, so it ends.", file=sys.stderr, flush=True
        )
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
    return parent
