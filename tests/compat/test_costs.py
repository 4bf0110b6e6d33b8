"""Who writes for today pays nothing for the past."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from compat.programs import command
from small import Validated, make_trainer, numbers

import fulmen
from fulmen.compat import install

PACKAGE = str(Path(fulmen.__file__).parent)
PROGRAM = """
import sys
import torch
import fulmen as L
from fulmen.demos import BoringModel

trainer = L.Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator="cpu")
trainer.fit(BoringModel())
trainer.test(BoringModel(), verbose=False)
print([name for name in sys.modules if name.startswith("fulmen.compat")])
"""


def test_a_program_of_today_loads_nothing_of_the_past():
    done = command(["-W", "ignore", "-c", PROGRAM])

    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def calls_of(batches: int) -> int:
    count = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(note)
    try:
        make_trainer().fit(Validated(), numbers(batches), numbers(2))
    finally:
        sys.setprofile(None)
    return count


def test_the_calls_of_a_step_are_the_same_with_the_old_names_in_use():
    calls_of(2)
    before = calls_of(30) - calls_of(10)

    install()
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer  # noqa: F401

    assert calls_of(30) - calls_of(10) == before
