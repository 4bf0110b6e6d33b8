"""A thread that notices when a run stands still, says where, and ends a rank that is stuck."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType

from fulmen.warn import log

TELL_AFTER_S = 20.0
"""A run is told about after this time without a batch, and again each time that the wait has doubled."""
STUCK_AFTER_S = 60.0
"""One of several ranks that did nothing at all for so long, within a step or waiting for data, is ended."""
LOOK_EVERY_S = 0.5
JOIN_S = 10.0
"""At the end of a run the thread is waited for; it may be asking a rank that is gone."""

LOADING = f"{os.sep}torch{os.sep}utils{os.sep}data{os.sep}"
WAITING = (f"{os.sep}torch{os.sep}distributed{os.sep}", f"{os.sep}torch{os.sep}autograd{os.sep}graph.py")
OURS = os.path.dirname(__file__) + os.sep
STEPS = tuple(OURS + os.path.join("loop", name) for name in ("step.py", "fetch.py"))
DEBUGGERS = ("bdb", "pdb", "pydevd", "debugpy")


class Watch:
    """Within it a daemon thread looks at `count` (batches so far, any stage); `place` says where the run is.

    Looking costs the run nothing: no step reports to it. With FULMEN_STALL_TIMEOUT=seconds in the environment a process
    that stands still for so long ends with status 1, so that the other ranks and the launcher hear of it. Without it
    that is done (`give_up`) for one of several ranks which is stuck: while others work for it to go on, it neither
    computes nor waits for them. `look` is called all the while.
    """

    def __init__(
        self,
        count: Callable[[], int],
        place: Callable[[], str],
        look: Callable[[], None],
        give_up: Callable[[str], None] | None,
    ) -> None:
        self.count, self.place, self.look, self.give_up = count, place, look, give_up
        limit = os.environ.get("FULMEN_STALL_TIMEOUT")
        self.limit_s = float(limit or "inf")
        self.ends_stuck = limit is None and give_up is not None
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
        seen, waited_s, tell_s, busy_s = self.count(), 0.0, TELL_AFTER_S, 0.0
        looked = time.monotonic()
        while not self.ended.wait(LOOK_EVERY_S):
            self.look()
            now, count = time.monotonic(), self.count()
            waited_s += min(now - looked, 4 * LOOK_EVERY_S)  # a program that was stopped for a while did not stall
            looked = now
            if count != seen:
                seen, waited_s, tell_s = count, 0.0, TELL_AFTER_S
            elif waited_s >= self.limit_s:
                self._end(waited_s, f"Ended, as FULMEN_STALL_TIMEOUT={self.limit_s:g} asks.")
            elif waited_s >= tell_s:
                if tell_s == TELL_AFTER_S:
                    busy_s = work_s()
                tell_s *= 2
                log.warning(self._told(waited_s))
            elif self.ends_stuck and waited_s >= STUCK_AFTER_S and self._is_stuck(work_s() - busy_s):
                self._end(waited_s, "Ended, so that the other ranks do not wait; FULMEN_STALL_TIMEOUT=seconds is more.")

    def _end(self, waited_s: float, why: str) -> None:
        told = self._told(waited_s)
        log.error("%s %s", told, why)
        if self.give_up is not None:
            self.give_up(told)
        os._exit(1)

    def _is_stuck(self, busy_s: float) -> bool:
        """In a step or waiting for data, without work (`busy_s` of it), not waiting for others, not in a debugger."""
        frame, innermost, files = sys._current_frames().get(self.watched), "", []
        while frame is not None:
            innermost = innermost or frame.f_code.co_filename
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        if any(word in innermost for word in WAITING) or not any(file in STEPS for file in files):
            return False
        debugged = any(os.path.basename(file).startswith(DEBUGGERS) for file in files)
        return not debugged and busy_s < 0.02 * (STUCK_AFTER_S - TELL_AFTER_S)

    def _told(self, waited_s: float) -> str:
        frame = sys._current_frames().get(self.watched)
        return f"Stalled: no batch for {waited_s:.0f} s at {self.place()}; {_where(frame)}."


def _where(frame: FrameType | None) -> str:
    """The user's line that runs, and whether data are waited for."""
    loading, line = False, None
    while frame is not None:
        name = frame.f_code.co_filename
        loading = loading or LOADING in name
        if line is None and "site-packages" not in name and not name.startswith((OURS, os.path.dirname(os.__file__))):
            line = f"{frame.f_code.co_name} ({name}:{frame.f_lineno})"
        frame = frame.f_back
    return ("waiting for the dataloader, " if loading else "") + f"in {line or 'no code of the program'}"


def work_s() -> float:
    """Seconds that this process and those that it started have computed, other ranks left out."""
    ranks = getattr(sys.modules.get("fulmen.strategy.children"), "started", None)
    others = {} if ranks is None else {process.pid for process in ranks.processes.values()}
    below: dict[int, list[tuple[int, float]]] = {}
    for pid, parent, seconds in _processes():
        if pid not in others:
            below.setdefault(parent, []).append((pid, seconds))
    total, queue = time.process_time(), [os.getpid()]
    while queue:
        for pid, seconds in below.get(queue.pop(), ()):
            total += seconds
            queue.append(pid)
    return total


def _processes() -> Iterator[tuple[int, int, float]]:
    """Each process of the machine: its number, its parent's, its computing time."""
    with suppress(OSError):  # where there is no /proc, only this process counts: better none is ended there
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                    yield int(entry), int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
