"""Save what there is when a run breaks off."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fulmen.callbacks.base import Checkpoint
from fulmen.checkpoint import places

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


class OnExceptionCheckpoint(Checkpoint):
    """Save a checkpoint when an exception ends the run, and remove it after a run that ended well.

    Trainer(callbacks=[OnExceptionCheckpoint("checkpoints")])
    """

    FILE_EXTENSION = ".ckpt"

    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        if not filename:
            raise ValueError("filename='' must be the name of a file, without its extension.")
        self.dirpath = dirpath
        self.filename = filename

    @property
    def ckpt_path(self) -> str:
        """Where the checkpoint goes."""
        return places.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    def on_exception(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        trainer.save_checkpoint(self.ckpt_path)

    def teardown(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.is_global_zero:
            places.remove(self.ckpt_path)
