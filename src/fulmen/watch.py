"""A thread that notices when a run stands still, says where, and ends a rank that is stuck."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType

import torch

from fulmen.warn import log

TELL_AFTER_S = 20.0
"""A run is told about after this time without a batch, and again each time that the wait has doubled."""
TELL_STUCK_AFTER_S = 10.0
"""One of several ranks that does nothing, while others wait for it, says so after this time."""
STUCK_AFTER_S = 60.0
"""Such a rank is ended after this time, if it did nothing for two thirds of it."""
LOADING_STUCK_AFTER_S = 300.0
"""The same for one that waits for data: where they come from a network, trying again takes minutes."""
LOOK_EVERY_S = 0.5
MEASURE_EVERY_S = 5.0
JOIN_S = 10.0
"""At the end of a run the thread is waited for; it may be asking a rank that is gone."""

DEADLOCK = (
    "Every rank waits for the others, each in something else: one of them did alone, or left out, what all must do "
    "together, such as should_stop = True, all_gather, barrier, save_checkpoint, or self.log(..., sync_dist=True)."
)

LOADING = f"{os.sep}torch{os.sep}utils{os.sep}data{os.sep}"
WAITING = (f"{os.sep}torch{os.sep}distributed{os.sep}", f"{os.sep}torch{os.sep}autograd{os.sep}graph.py")
OURS = os.path.dirname(__file__) + os.sep
STEPS = STEP, FETCH = tuple(OURS + os.path.join("loop", name) for name in ("step.py", "fetch.py"))
DEBUGGERS = ("bdb", "pdb", "pydevd", "debugpy")


class Watch:
    """Within it a daemon thread looks at `count` (batches so far, any stage); `place` says where the run is.

    Looking costs the run nothing: no step reports to it. With FULMEN_STALL_TIMEOUT=seconds in the environment a process
    that stands still for so long ends with status 1, so that the other ranks and the launcher hear of it. Without it
    that is done (`give_up`) for one of several ranks which is stuck: while others work for it to go on, it neither
    computes nor waits for them. It can't be done sooner: nothing but time tells a rank that hangs from one that waits
    for an answer, or sleeps before it tries again. All are ended if each waits for the others, so in an exchange of
    its own. `look` is called all the while; `late` is told after how many batches the run stands, and whether
    this rank waits; it knows who does not.
    """

    def __init__(
        self,
        count: Callable[[], int],
        place: Callable[[], str],
        look: Callable[[], None],
        give_up: Callable[[str], None] | None,
        late: Callable[[int, bool], list[int] | None],
    ) -> None:
        self.count, self.place, self.look, self.give_up, self.late = count, place, look, give_up, late
        limit = os.environ.get("FULMEN_STALL_TIMEOUT")
        self.limit_s = float(limit or "inf")
        self.ends_stuck = limit is None and give_up is not None
        self.first_s = TELL_AFTER_S if give_up is None else TELL_STUCK_AFTER_S
        self.idle_s, self.worked_s = 0.0, None
        self.waited_for: list[int] | None = None
        self.ended = threading.Event()
        self.watched = threading.get_ident()

    def __enter__(self) -> Watch:
        self.thread = threading.Thread(target=self._look, name="fulmen-watch", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended.set()
        self.thread.join(JOIN_S)  # within torch's store when Python ends, it would take the process with it

    def _look(self) -> None:
        seen, waited_s, tell_s, measure_s = self.count(), 0.0, self.first_s, MEASURE_EVERY_S
        looked = time.monotonic()
        while not self.ended.wait(LOOK_EVERY_S):
            self.look()
            now, count = time.monotonic(), self.count()
            waited_s += min(now - looked, 4 * LOOK_EVERY_S)  # a program that was stopped for a while did not stall
            looked = now
            if count != seen:
                if measure_s > MEASURE_EVERY_S:
                    self.late(count, False)
                seen, waited_s, tell_s, measure_s = count, 0.0, self.first_s, MEASURE_EVERY_S
                self.idle_s, self.worked_s = 0.0, None
                continue
            if self.give_up is not None and waited_s >= measure_s:
                self._measure()
                measure_s += MEASURE_EVERY_S
            if waited_s >= self.limit_s and not (self._waits() and waited_s < self.limit_s + MEASURE_EVERY_S):
                self._end(waited_s, f"Ended, as FULMEN_STALL_TIMEOUT={self.limit_s:g} asks.")
            elif waited_s >= tell_s:
                self._tell(waited_s, is_early=tell_s < TELL_AFTER_S)
                tell_s *= 2
            elif self.ends_stuck and waited_s >= STUCK_AFTER_S and self._is_hopeless(waited_s):
                self._end(waited_s, "Ended, so that the other ranks do not wait; FULMEN_STALL_TIMEOUT=seconds is more.")
            elif self.ends_stuck and waited_s >= STUCK_AFTER_S and self._is_deadlock(STUCK_AFTER_S * 2 / 3):
                self._end(waited_s, f"Ended. {DEADLOCK}")

    def _measure(self) -> None:
        """For how long this rank has not worked, and who is to blame."""
        before, self.worked_s = self.worked_s, work_s()
        rests = before is not None and self.worked_s is not None and self.worked_s - before < 0.02 * MEASURE_EVERY_S
        self.idle_s = self.idle_s + MEASURE_EVERY_S if rests else 0.0
        self.waited_for = self.late(self.count(), self.idle_s > 0 and self._waits())

    def _tell(self, waited_s: float, is_early: bool) -> None:
        if not is_early:
            log.warning(self._told(waited_s))
        elif self._is_stuck(MEASURE_EVERY_S):
            end_s = self._patience_s() if self.ends_stuck else self.limit_s
            log.warning("%s The other ranks wait for it, %g s at most.", self._told(waited_s), end_s)

    def _end(self, waited_s: float, why: str) -> None:
        told = self._told(waited_s)
        log.error("%s %s", told, why)
        if self.give_up is not None:
            self.give_up(told)
        os._exit(1)

    def _patience_s(self) -> float:
        loads = any(frame.f_code.co_filename == FETCH for frame in self._frames())
        return LOADING_STUCK_AFTER_S if loads else STUCK_AFTER_S

    def _is_hopeless(self, waited_s: float) -> bool:
        patience_s = self._patience_s()
        return waited_s >= patience_s and self._is_stuck(patience_s * 2 / 3)

    def _is_stuck(self, seconds: float) -> bool:
        """In a step or waiting for data, idle for so long, not waiting for others, not in a debugger."""
        files = [frame.f_code.co_filename for frame in self._frames()]
        debugged = any(os.path.basename(file).startswith(DEBUGGERS) for file in files)
        return self.idle_s >= seconds and any(file in STEPS for file in files) and not (debugged or self._waits())

    def _is_deadlock(self, seconds: float) -> bool:
        """All ranks wait for each other. With a GPU the time may be the GPU's, and NCCL has a limit of its own."""
        return self.waited_for == [] and self.idle_s >= seconds and self._waits() and not torch.cuda.is_initialized()

    def _waits(self) -> bool:
        """In an exchange with other ranks, who are the ones to be ended first."""
        innermost = [frame.f_code.co_filename for frame in self._frames()[:1]]
        return self.give_up is not None and any(word in file for word in WAITING for file in innermost)

    def _frames(self) -> list[FrameType]:
        """The innermost first."""
        frame, frames = sys._current_frames().get(self.watched), []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames

    def _told(self, waited_s: float) -> str:
        frames = self._frames()
        loads = any(LOADING in frame.f_code.co_filename for frame in frames)
        waiting = "waiting for the dataloader, " if loads else ""
        if self.idle_s and self._waits():
            ranks = ", ".join(str(rank) for rank in self.waited_for or ())
            waiting = f"waiting for rank {ranks}, " if ranks else "waiting for the other ranks, "
        return f"Stalled: no batch for {waited_s:.0f} s at {self.place()}; {waiting}{_where(frames)}."


def _where(frames: list[FrameType]) -> str:
    """The user's line that runs."""
    for frame in frames:
        name = frame.f_code.co_filename
        if "site-packages" not in name and not name.startswith((OURS, os.path.dirname(os.__file__))):
            return f"in {frame.f_code.co_name} ({name}:{frame.f_lineno})"
    return "in no code of the program"


def work_s() -> float | None:
    """Seconds that this process and those that it started have computed, other ranks and this thread left out.

    None where that is not known, or one of them is in a call that waits for a disk, and can't be ended within it.
    """
    ranks = getattr(sys.modules.get("fulmen.strategy.children"), "started", None)
    others = {} if ranks is None else {process.pid for process in ranks.processes.values()}
    below: dict[int, list[int]] = {}
    found: dict[int, tuple[str, float]] = {}
    for pid, parent, state, seconds in _processes():
        found[pid] = state, seconds
        if pid not in others:
            below.setdefault(parent, []).append(pid)
    total, queue = -time.thread_time(), [os.getpid()]
    while queue:
        pid = queue.pop()
        state, seconds = found.get(pid, ("D", 0.0))
        if state == "D":
            return None
        total += seconds
        queue += below.get(pid, ())
    return total


def _processes() -> Iterator[tuple[int, int, str, float]]:
    """Each process of the machine: its number, its parent's, its state, its computing time."""
    with suppress(OSError):  # there may be no /proc
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                    yield int(entry), int(fields[1]), fields[0], seconds
