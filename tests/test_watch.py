"""The thread that looks after a run."""

from __future__ import annotations

import threading

from fulmen.watch import Watch


def test_it_is_gone_when_the_run_ends_even_if_it_was_looking_right_then():
    looking, let_go = threading.Event(), threading.Timer(0.2, lambda: going.set())
    going = threading.Event()

    def look() -> None:
        looking.set()
        going.wait(5)

    with Watch(lambda: 0, lambda: "", look, None) as watch:
        looking.wait(5)
        let_go.start()

    assert going.is_set()
    assert not watch.thread.is_alive()
