"""Fulmen, from the source beside this folder."""

import fulmen
from peers.like import build

VERSION = fulmen.__version__
globals().update(build("fulmen"))
