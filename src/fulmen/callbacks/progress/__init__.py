"""Progress bars: rich in a terminal, tqdm, plain lines in a log file."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from fulmen.callbacks.progress.plain_progress import PlainProgressBar
from fulmen.callbacks.progress.progress_bar import ProgressBar
from fulmen.callbacks.progress.rich_progress import RichProgressBar, RichProgressBarTheme
from fulmen.callbacks.progress.tqdm_progress import TQDMProgressBar

__all__ = [
    "PlainProgressBar",
    "ProgressBar",
    "RichProgressBar",
    "RichProgressBarTheme",
    "TQDMProgressBar",
    "default_bar",
]


def default_bar() -> ProgressBar:
    """The bar that suits where the output goes: a notebook, a terminal, or a file."""
    if "ipykernel" in sys.modules:
        return TQDMProgressBar() if find_spec("tqdm") and find_spec("ipywidgets") else RichProgressBar()
    in_terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return RichProgressBar() if in_terminal and find_spec("rich") else PlainProgressBar()
