"""Each row once in a run of wandb that a killed program goes on with.

Its own process writes rows seconds after they were sent, and dies with the program: rows from before the checkpoint may
be lost, others from behind it be there already. The former are sent again, the latter left out when they come again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

RECENT_S, MOST = 60.0, 1000
"""Of the rows that wandb's process may still hold, how old they are and how many a checkpoint keeps."""
_BLOCK, _HEAD = 32768, 7


class Rows:
    """What the run has got of the program, over all its processes."""

    def __init__(self) -> None:
        self.before = 0  # rows that earlier processes wrote, where each counts anew
        self.there = 0  # rows to come that the run has already
        self.recent: deque[tuple[float, dict[str, Any]]] = deque(maxlen=MOST)
        self.state: dict[str, Any] = {}

    def note(self, row: dict[str, Any]) -> None:
        plain = {name: value for name, value in row.items() if type(value) in (bool, int, float, str)}
        self.recent.append((time.monotonic(), plain))

    def state_dict(self, run: Any) -> dict[str, Any]:
        number = None
        with suppress(Exception):  # of a run that is over
            number = run.step
        if not isinstance(number, int):
            return {}
        since = time.monotonic() - RECENT_S
        recent = [row for at, row in self.recent if at > since]
        return {"rows": self.before + number - self.there, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state

    def go_on(self, run: Any) -> None:
        """Bring the run to where the checkpoint stands."""
        state, self.state = self.state, {}
        before = _before(run) if "rows" in state else None
        if before is None:
            return
        self.before = before
        lost = state["rows"] - (before + run.step)
        for row in state["recent"][-lost:] if lost > 0 else ():
            self.note(row)
            run.log(row)
        if lost < 0:
            self.there = -lost
            run.log = self._left_out(run.log)

    def _left_out(self, send: Any) -> Any:
        def log(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            if step is None and commit is not False and self.there:
                self.there -= 1
                return
            send(data, step=step, commit=commit)

        return log


def _before(run: Any) -> int | None:
    """How many rows it has that `run.step` does not count; None where nobody can tell."""
    if not run.offline or not isinstance(run.step, int):
        return 0 if isinstance(run.step, int) else None
    own = Path(run.sync_dir)
    files = [path for path in own.parent.glob(f"*-{run.id}/run-{run.id}.wandb") if path.parent != own]
    return sum(_rows(path.read_bytes()) for path in files) if files or run.step else None


def _rows(content: bytes) -> int:
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    number = 0
    for record in _records(content):
        with suppress(DecodeError):  # of the last one, torn by the kill
            number += Record.FromString(record).WhichOneof("record_type") == "history"
    return number


def _records(content: bytes) -> Iterator[bytes]:
    """Those of a LevelDB log: in its blocks each piece comes behind a checksum, its length and its place in one."""
    at, record = _HEAD, b""
    while at + _HEAD <= len(content):
        if _BLOCK - at % _BLOCK < _HEAD:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + _HEAD : at + _HEAD + length]
        at += _HEAD + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
