"""Signals that ask a run to end: it finishes the step, saves, and exits with a status that tells why."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from fulmen.errors import SIGTERMException
from fulmen.warn import log

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT")
SAME_PRESS_S = 1.0
"""Launchers pass a terminal's Ctrl-C on, so that it comes twice; a second one after this time stops at once."""
AGREE_S = 20.0
"""How long a rank that was asked to end waits for the others to say where."""
NEVER = 2**62
"""A place that no run reaches."""


class Signals:
    """Within it the signals of `NAMES` set `received` and call `ask`; afterwards the program's own handlers are back.

    A handler of the program's own stays in place, and so does a signal that it ignores.
    """

    def __init__(self, ask: Callable[[], None], more: Iterable[int] = ()) -> None:
        self.ask = ask
        self.numbers = {*(getattr(signal, name) for name in NAMES if hasattr(signal, name)), *more}
        self.received: int | None = None
        self.since_s = 0.0
        self.before: dict[int, Any] = {}
        self.ranks: Ranks | None = None
        self.pass_on: Callable[[int], None] | None = None  # to the processes that do the work in place of this one

    def __enter__(self) -> Signals:
        self.process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: Any, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.ranks is not None:
            self.ranks.leave()
        if kind is None and self.received in self.before:  # it came when all was done: as if it had come behind fit
            signal.raise_signal(self.received)
        self.before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # forked from the run: a loader's worker, which Ctrl-C reaches too
            if number != signal.SIGINT:
                signal.signal(number, self.before[number])
                signal.raise_signal(number)
            return
        now = time.monotonic()
        if number == signal.SIGINT and self.received is not None and now - self.since_s > SAME_PRESS_S:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self.since_s = number, now
            if self.pass_on is not None:
                self.pass_on(number)
            elif self.ranks is None:
                self.ask()

    def look(self) -> None:
        """Called by a thread, now and then: have the other ranks a signal to tell, or this one?"""
        if self.ranks is None:
            return
        with suppress(RuntimeError):  # the rank that keeps the store is gone; others tell that
            told = self.ranks.heard(self.received)
            if told is not None:
                if self.received is None:
                    self.received, self.since_s = told, time.monotonic()
                self.ask()
                self.ranks.agree()

    def late(self, batches: int, waits: bool) -> list[int] | None:
        """The ranks that others wait for, called by that thread where the run stands still; None if it can't tell."""
        with suppress(RuntimeError):
            return None if self.ranks is None else self.ranks.late(batches, waits)

    def stops_at(self, place: int) -> bool:
        """Whether a run that was asked to end does so at this place, which all its ranks come to."""
        return self.received is not None and (self.ranks is None or place >= self.ranks.wait())

    def exit(self) -> BaseException:
        """The exception that ends the program as the signal asked, with status 128 + its number."""
        assert self.received is not None
        error = KeyboardInterrupt() if self.received == signal.SIGINT else SIGTERMException(128 + self.received)
        error.of_all_ranks = self.ranks is not None  # type: ignore[attr-defined]
        return error


class Ranks:
    """Finds the place where all ranks stop, through a store that all can write to: a step costs nothing.

    A thread of each rank looks for a signal there. When one came, it lets its rank stop at each place to look, and then
    notes the place up to which its rank may go meanwhile: `ahead()`. The furthest of these is where all of them end.
    """

    def __init__(self, store: Any, name: str, rank: int, world_size: int, ahead: Callable[[], int]) -> None:
        self.store = store.clone()  # a connection of its own: that of the run may be waiting
        self.signal, self.mine = f"{name}/signal", f"{name}/{rank}"
        self.all = [f"{name}/{other}" for other in range(world_size)]
        self.ahead = ahead
        self.rank, self.lock = rank, threading.Lock()
        self.noted = False
        self.end: int | None = None

    def heard(self, received: int | None) -> int | None:
        """The signal that one of the ranks got."""
        if received is not None:
            self.store.compare_set(self.signal, "", f"{received:d}")
        return int(self.store.get(self.signal)) if self.store.check([self.signal]) else None

    def agree(self) -> None:
        self._note(self.ahead)
        if self.end is None and self.store.check(self.all):
            self.end = max(int(self.store.get(key)) for key in self.all)

    def late(self, batches: int, waits: bool) -> list[int] | None:
        """Say whether this rank waits after so many batches; who does not, or says nothing, as two ranks hear."""
        self.store.set(f"{self.mine}/waits", f"{batches} {waits:d}")
        return [rank for rank, key in enumerate(self.all) if not self._waits(key, batches)] if self.rank < 2 else None

    def _waits(self, key: str, batches: int) -> bool:
        key = f"{key}/waits"
        told = self.store.get(key).split() if self.store.check([key]) else (-1, 0)
        return int(told[0]) >= batches - 1 and bool(int(told[1]))

    def leave(self) -> None:
        """At the end of the run: this rank will not stop any more."""
        with suppress(RuntimeError):
            self._note(lambda: NEVER)

    def _note(self, place: Callable[[], int]) -> None:
        with self.lock:
            if not self.noted:
                self.store.set(self.mine, str(place()))
                self.noted = True

    def wait(self) -> int:
        """Where all ranks stop; here and now, if they can't be reached."""
        limit = time.monotonic() + AGREE_S
        while self.end is None and time.monotonic() < limit:
            time.sleep(0.02)
        if self.end is None:
            log.error("Asked to end, but not all ranks answer: ended without saving. Go on from the last checkpoint.")
            raise SystemExit(1)
        return self.end
