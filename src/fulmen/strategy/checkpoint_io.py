"""How checkpoints are written, read and deleted, as a part that users may replace: `Trainer(plugins=[...])`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any


class CheckpointIO(ABC):
    """Where checkpoints go to. Saving and deleting is asked of rank zero, loading of every rank."""

    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep `checkpoint`, a tree of plain data, under `path`."""

    @abstractmethod
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """What was kept under `path`."""

    @abstractmethod
    def remove_checkpoint(self, path: Any) -> None:
        """Forget what was kept under `path`."""

    def teardown(self) -> None:
        """The end of a run."""


class TorchCheckpointIO(CheckpointIO):
    """The default: files that `torch.load` reads, in a folder or at a URL, written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        from fulmen.checkpoint import files

        files.write(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        from fulmen.checkpoint import files

        return files.read(path, map_location=map_location, weights_only=weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        from fulmen.checkpoint import places

        places.remove(path)


class AsyncCheckpointIO(CheckpointIO):
    """Saves through another one beside training, which waits for the copy of the state only.

    What goes wrong in a save is raised by the next one, or at the end of the run.
    """

    def __init__(self, checkpoint_io: CheckpointIO | None = None) -> None:
        self.checkpoint_io = checkpoint_io or TorchCheckpointIO()
        self._save: Any = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        from fulmen.checkpoint.writer import Save, snapshot

        self.teardown()
        work = partial(self.checkpoint_io.save_checkpoint, snapshot(checkpoint), path, storage_options=storage_options)
        self._save = Save(work)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.teardown()
        return self.checkpoint_io.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.teardown()
        self.checkpoint_io.remove_checkpoint(*args, **kwargs)

    def teardown(self) -> None:
        """Wait for the save under way."""
        save, self._save = self._save, None
        if save is not None:
            save.finish()
