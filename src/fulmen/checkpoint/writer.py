"""Saves that run beside training: the loop waits for a copy of the state, a thread writes it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread, current_thread
from typing import Any, ClassVar

import torch
from torch import Tensor

from fulmen.checkpoint.packing import Packer


class Save:
    """A save under way.

    Saves of one process run one after the other, in the order in which they are begun, and the program does not end
    before the last one is over.
    """

    latest: ClassVar[Save | None] = None

    def __init__(self, work: Callable[[], None]) -> None:
        wait()
        self.error: BaseException | None = None
        self._work: Callable[[], None] | None = work
        self._thread = Thread(target=self._run, name="fulmen-save", daemon=False)
        Save.latest = self
        self._thread.start()

    def _run(self) -> None:
        assert self._work is not None
        try:
            self._work()
        except BaseException as error:
            self.error = error
        finally:
            self._work = None  # and the copy of the state with it

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the end, and raise what went wrong."""
        self._thread.join()
        if self.error is not None:
            raise self.error


def wait() -> None:
    """Until no save is under way; what goes wrong is for the one who began it."""
    if Save.latest is not None and Save.latest._thread is not current_thread():
        Save.latest._thread.join()


def snapshot(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy in host memory, whatever becomes of the original. What shares memory in that shares it in the copy."""
    copies: dict[int, torch.UntypedStorage] = {}

    def copied(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            return tensor.detach().cpu().clone()
        storage = tensor.untyped_storage()
        if storage._cdata not in copies:
            copies[storage._cdata] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
        made = torch.empty(0, dtype=tensor.dtype)
        return made.set_(copies[storage._cdata], tensor.storage_offset(), tensor.size(), tensor.stride())

    return Packer(copied)(checkpoint)
