"""Batches out of a loader, limited, prepared for the step, with the knowledge which one is the last."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter
from typing import Any

from fulmen import seed
from fulmen.attributes import NOT_PLAIN, plain
from fulmen.checkpoint.packing import unpack
from fulmen.combined import CombinedLoader, CombinedPass
from fulmen.data import is_known
from fulmen.loop.unprofiled import batches
from fulmen.position import Pass, skips
from fulmen.warn import warn_once

END = object()


class Fetch:
    """Iterate over a loader's batches.

    Where the number of batches is known, batch i is fetched right before it is used; without a length one batch is
    fetched ahead, so that `is_last` is true in time.
    """

    def __init__(
        self, loader: Any, length: int | float, limit: int | float, prepare: Callable[[Any], Any] | None
    ) -> None:
        self.loader = loader
        self.sized = length != math.inf
        self.total = min(length, limit)
        self.prepare = _out_of_triple(prepare) if isinstance(loader, CombinedLoader) else prepare
        self.count = 0  # batches given out
        self.is_last = False
        self.place = CombinedPass(loader) if isinstance(loader, CombinedLoader) else Pass(loader)
        self.ahead: tuple[Any, Any, Any] | None = None  # the states from before the batch that is fetched ahead,
        self.following: Any = END  # this one
        self._iterator: Iterator[Any] | None = None

    def start(self, salt: str = "") -> None:
        """Make the loader's iterator, which draws from the random states."""
        self._iterator = self.place.begin(salt)

    def resume(self, state: dict[str, Any], skip: int) -> None:
        """Make the iterator that goes on behind the `skip` batches that were used before."""
        self.count, self.is_last = skip, skip >= self.total or state.get("is_last", False)
        iterator = self._iterator = self.place.resume(state["place"], skip + ("following" in state))
        if self.sized:
            return
        if self.is_last:  # an iterator that was asked once more has begun anew
            self._iterator = iter(())
            return
        if state.get("ahead_rng") is not None:  # the next batch was made before the last step drew its numbers
            seed.restore(state["ahead_rng"])
        self._remember()
        held = "following" in state
        following = self.following = unpack(state["following"], False, "") if held else next(iterator, END)
        self.is_last = following is END
        self._iterator = iter(()) if self.is_last else chain((following,), iterator)

    def state_dict(self) -> dict[str, Any]:
        """Where the pass stands behind the batches that were used."""
        if self.ahead is None or self.is_last:
            is_last = self.ahead is not None
            return {"place": self.place.state_dict(self.count), "ahead_rng": None, "is_last": is_last}
        place, states, _ = self.ahead
        held = plain(self.following) if self.place.replays else NOT_PLAIN
        if held is not NOT_PLAIN:  # made anew, it might be another: the model may take part, as in rollouts
            return {"place": self.place.state_dict(self.count + 1), "following": held}
        return {"place": place, "ahead_rng": seed.plain(states)}

    def loader_state(self) -> Any:
        """The loader's own state as consumed by the loop, None where it has none."""
        if not hasattr(self.loader, "state_dict"):
            return None
        torchdatas = getattr(self.loader.state_dict, "__module__", "").startswith("torchdata.")
        if torchdatas and skips(self.loader) and self.loader._iterator is None:  # a copy runs; asking would start this
            return None
        return self.loader.state_dict() if self.ahead is None else self.ahead[2]

    def __iter__(self) -> Iterator[Any]:
        if self._iterator is None:
            self.start()
        assert self._iterator is not None
        iterator, self._iterator = self._iterator, None
        return self._counted(iterator) if self.sized else self._ahead(iterator)

    def _counted(self, iterator: Iterator[Any]) -> Iterator[Any]:
        prepare, total = self.prepare, self.total
        if self.count >= total:
            return
        try:
            for batch in batches(iterator):
                self.count += 1
                self.is_last = self.count >= total
                yield batch if prepare is None else prepare(batch)
                if self.is_last:
                    return
        except (ConnectionError, EOFError) as error:
            raise self.dead_worker(error) from error
        except RuntimeError as error:
            if "resiz" not in str(error):
                raise
            raise RuntimeError(
                f"Batch {self.count} could not be put together: its samples are of unequal shape. Pad them, or give "
                "the DataLoader a collate_fn."
            ) from error
        self.ended_early()

    def dead_worker(self, error: Exception) -> RuntimeError:
        """A worker's end of a pipe is gone; torch says the same of other ways to die, with a signal's handler."""
        time.sleep(0.1)  # that handler's error, which says more, comes now if it comes
        return RuntimeError(
            f"A DataLoader worker was killed or died while batch {self.count} was loaded ({type(error).__name__}): "
            "out of memory? Try fewer workers, or num_workers=0 to see the dataset's own error."
        )

    def ended_early(self) -> None:
        """The loader promised more batches than it gave."""
        message = f"The dataloader ended after {self.count} of its {self.total} batches"
        if skips(self.loader) and type(self.loader).__module__.startswith("torch.") and is_known(self.loader):
            raise RuntimeError(
                f"{message} (batch {self.count}): the __getitem__ of {type(self.loader.dataset).__name__}, line "
                f"{_line(self.loader.dataset)}, raised StopIteration, which ends a loop silently. "
                "Raise IndexError or ValueError there."
            )
        warn_once(f"{message}: its __len__, or its sampler's, is too high, or its dataset raised StopIteration.")

    def _ahead(self, iterator: Iterator[Any]) -> Iterator[Any]:
        if self.count >= self.total:
            return
        prepare = self.prepare
        batch = next(iterator, END)
        while batch is not END:
            self._remember()
            self.count += 1
            following = self.following = END if self.count >= self.total else next(iterator, END)
            self.is_last = following is END
            yield batch if prepare is None else prepare(batch)
            batch = following

    def _remember(self) -> None:
        state = self.loader.state_dict() if hasattr(self.loader, "state_dict") else None
        self.ahead = self.place.state_dict(self.count), seed.snapshot(), state


def _line(dataset: Any) -> str:
    try:
        lines, start = inspect.getsourcelines(type(dataset).__getitem__)
        return f"{start} to {start + len(lines) - 1}"
    except (OSError, TypeError, AttributeError):
        return "?"


def _out_of_triple(prepare: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """A combined loader gives (batch, batch_idx, dataloader_idx); steps get the batch."""
    return itemgetter(0) if prepare is None else lambda triple: prepare(triple[0])


class Pull:
    """What a step written as (dataloader_iter) gets: an iterator over (batch, batch_idx, dataloader_idx)."""

    def __init__(self, batches: Iterator[Any], start: int = 0, loader_idx: int = 0) -> None:
        self.batches, self.loader_idx = batches, loader_idx
        self.batch_idx = start
        self.held: list[Any] = []

    def firsts(self) -> Iterator[Any]:
        """The batch with which each step begins; the step pulls it, and as many more as it likes."""
        for batch in self.batches:
            self.held = [batch]
            yield batch

    def __iter__(self) -> Pull:
        return self

    def __next__(self) -> tuple[Any, int, int]:
        batch = self.held.pop() if self.held else next(self.batches)
        self.batch_idx += 1
        return batch, self.batch_idx - 1, self.loader_idx
