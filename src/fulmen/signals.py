"""Signals that ask a run to end: it finishes the step, saves, and exits with a status that tells why."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from fulmen.errors import SIGTERMException

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT")
SAME_PRESS_S = 1.0
"""Launchers pass a terminal's Ctrl-C on, so that it comes twice; a second one after this time stops at once."""


class Signals:
    """Within it the signals of `NAMES` set `received` and call `ask`; afterwards the program's own handlers are back.

    A handler of the program's own stays in place, and so does a signal that it ignores.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.ask = ask
        self.received: int | None = None
        self.since_s = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.received is not None and now - self.since_s > SAME_PRESS_S:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self.since_s = number, now
            self.ask()

    def exit(self) -> BaseException:
        """The exception that ends the program as the signal asked, with status 128 + its number."""
        assert self.received is not None
        if self.received == signal.SIGINT:
            return KeyboardInterrupt()
        return SIGTERMException(128 + self.received)
