"""A thread that notices when a run stands still, and says where."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from fulmen.warn import log

TELL_AFTER_S = 20.0
"""A run is told about after this time without a batch, and again each time that the wait has doubled."""
LOOK_EVERY_S = 0.5

LOADING = f"{os.sep}torch{os.sep}utils{os.sep}data{os.sep}"
OURS = os.path.dirname(__file__) + os.sep


class Watch:
    """Within it a daemon thread looks at `count` (batches so far, any stage); `place` says where the run is.

    Looking costs the run nothing: no step reports to it. With FULMEN_STALL_TIMEOUT=seconds in the environment a process
    that stands still for so long ends with status 1, so that the other ranks and the launcher hear of it.
    """

    def __init__(self, count: Callable[[], int], place: Callable[[], str], look: Callable[[], None]) -> None:
        self.count, self.place, self.look = count, place, look
        self.limit_s = float(os.environ.get("FULMEN_STALL_TIMEOUT", "inf"))
        self.ended = threading.Event()
        self.watched = threading.get_ident()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._look, name="fulmen-watch", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended.set()

    def _look(self) -> None:
        seen, since_s, tell_s = self.count(), time.monotonic(), TELL_AFTER_S
        while not self.ended.wait(LOOK_EVERY_S):
            self.look()
            now, count = time.monotonic(), self.count()
            if count != seen:
                seen, since_s, tell_s = count, now, TELL_AFTER_S
            elif now - since_s >= self.limit_s:
                log.error("%s Ended, as FULMEN_STALL_TIMEOUT=%g asks.", self._told(now - since_s), self.limit_s)
                os._exit(1)
            elif now - since_s >= tell_s:
                tell_s *= 2
                log.warning(self._told(now - since_s))

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
