"""What a training gains by itself."""

from __future__ import annotations

from typing import Any

from fulmen import batched, optim
from fulmen.warn import rank_zero_info


def speed_up(loaders: list[Any], optimizers: list[Any]) -> None:
    """Do what is quicker and gives the same results; one line says what that is, with the loaders' part in it."""
    done = [f"batches of {kind} in one piece" for kind in batched.kinds(loaders)]
    done += [f"{kind} by foreach operations" for kind in optim.step_together(optimizers)]
    if done:
        rank_zero_info(f"Faster, with the same results: {', '.join(done)}.")
