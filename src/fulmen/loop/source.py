"""Where the batches of a stage come from: what was passed to fit, else the datamodule's or the module's hook."""

from __future__ import annotations

import os
from contextlib import nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from torch.utils.data import default_collate

from fulmen import data, kept, position
from fulmen.batched import batched, is_batched
from fulmen.combined import CombinedLoader
from fulmen.datamodule import LightningDataModule
from fulmen.errors import MisconfigurationException
from fulmen.hooks import method, overrides
from fulmen.lifecycle import DataHooks
from fulmen.seed import capture, isolate_rng, restore

if TYPE_CHECKING:
    from fulmen.strategy.base import Strategy


class Source:
    """The loaders of one stage ("train", "val", "test" or "predict") for trainer.<verb>."""

    def __init__(self, stage: str, given: Any, datamodule: Any, module: Any, verb: str = "fit") -> None:
        self.stage, self.given, self.verb = stage, given, verb
        self.argument = f"{stage}_dataloaders" if verb == "fit" else "dataloaders"
        self.hook = f"{stage}_dataloader"
        self.owner: Any = None
        if given is None:
            for owner in (datamodule, module):
                if owner is not None and self._brings(owner):
                    self.owner = owner
                    break
        self.whole_batches = False  # whether ranks take turns batch by batch
        self.raw: Any = None  # what the user passed or returned, with the samplers of this rank
        self.loaders: list[Any] = []
        self.lengths: list[int | float] = []
        self.loaded_epoch = 0
        self.rng: dict[str, Any] | None = None  # the random states of then
        self.first: kept.Noted | None = None  # what whoever makes the loaders kept before it made the first ones
        self.owned: dict[str, Any] = kept.NOTHING  # and what it had changed before it made these,
        self.noted: kept.Noted | None = None  # and all that it kept then
        self.begun: list[dict[str, Any]] = []  # what their parts had, when their lengths were asked
        self.former: dict[str, Any] | None = None  # the state to take over as soon as the loaders are there

    def _brings(self, owner: Any) -> bool:
        base = LightningDataModule if isinstance(owner, LightningDataModule) else DataHooks
        return overrides(owner, self.hook, base)

    @property
    def exists(self) -> bool:
        return self.given is not None or self.owner is not None

    @property
    def loaded(self) -> bool:
        return self.raw is not None

    def missing(self, module: Any, datamodule: Any) -> MisconfigurationException:
        where = type(datamodule if datamodule is not None else module).__name__
        return MisconfigurationException(
            f"trainer.{self.verb} has no data: pass {self.verb}(..., {self.argument}=...), or define {self.hook} in "
            f"{where}."
        )

    def load(self, strategy: Strategy, sampler: bool, overfit: bool, epoch: int = 0) -> None:
        """Get the loaders and make them ready for this rank."""
        former = self.former or {}
        if self.first is None and self.owner is not None:
            self.first = kept.note(self.owner, asked=False)
        with isolate_rng() if former else nullcontext():
            if former:
                restore(former["rng"])
            owned, then = (former.get(name, kept.NOTHING) for name in ("owned", "then"))
            later = kept.holds(self.owner, {**then["counters"], **owned["counters"]})
            for held in (then, owned):
                kept.put_back(self.owner, held, anew=False)
            self.rng, self.owned = capture(), owned if former else kept.changes(self.owner, False, self.first)
            self.noted = None if self.owner is None else kept.note(self.owner, asked=False)
            self.raw = self.given if self.owner is None else method(self.owner, self.hook)()
        self.loaded_epoch = epoch
        argument = self.argument if self.owner is None else f"{type(self.owner).__name__}.{self.hook}"
        if self.raw is None:
            raise MisconfigurationException(
                f"{argument} returned None; it must return a DataLoader or another iterable."
            )
        self.loaders = self._arrange(argument, strategy, sampler, overfit)
        parts = [kept.moving_parts(loader) for loader in self._parts()]
        for part, held in zip_longest(parts, former.get("begun", ())[: len(parts)], fillvalue={}):
            kept.watch(*part.values(), again=False)
            kept.put_parts_back(part, held, anew=False)
        self.begun = [{path: kept.changes(one, False) for path, one in part.items()} for part in parts]
        self.lengths = [data.loader_length(loader) for loader in self.loaders]
        if self.former is not None:
            state, self.former = self.former, None
            self.loaded_epoch = state["loaded_epoch"]
            for loader, held in zip(self._parts(), state["loaders"], strict=False):
                position.put_all_back(loader, held)
        kept.put_back(self.owner, later, anew=False)

    def _parts(self) -> list[Any]:
        return [part for loader in self.loaders for part in getattr(loader, "flattened", [loader])]

    def gives_tensors(self) -> bool:
        """Whether no batch of a DataLoader has a `to` of its own: what torch collates has none."""
        parts = self._parts()
        return all(is_batched(one) or getattr(one, "collate_fn", default_collate) is default_collate for one in parts)

    def close(self) -> None:
        """At the end of the run."""
        for loader in self._parts():
            position.end_workers(loader)

    def state_dict(self) -> dict[str, Any]:
        """What of the loaders moves from one pass to the next."""
        return {
            "loaded_epoch": self.loaded_epoch,
            "rng": self.rng,
            "owned": self.owned,
            "then": kept.NOTHING if self.noted is None else kept.held_at(self.owner, self.noted),
            "begun": self.begun,
            "loaders": [position.state_of_all(loader) for loader in self._parts()],
        }

    def _arrange(self, argument: str, strategy: Strategy, sampler: bool, overfit: bool) -> list[Any]:
        """Training: one loader, or one combined of several. Evaluation: a list, run one after the other."""

        def shared(loader: Any) -> Any:
            data.check_loader(loader, argument, self.verb)
            if overfit:
                loader = data.sequential(loader)
            if sampler and strategy.distributed_sampler_kwargs is not None:
                seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
                share = strategy.distributed_sampler_kwargs
                loader = data.distributed(loader, share, self.stage == "train", seed, self.whole_batches)
            return loader

        def ready(loader: Any) -> Any:
            loader = data.seeded_workers(batched(loader), strategy.global_rank)
            return position.numbered(loader) if self.stage in ("train", "val") else loader

        raw, training = self.raw, self.stage == "train"
        combined = isinstance(raw, CombinedLoader)
        mode: Any = raw.mode if combined else "max_size_cycle" if training else "sequential"
        every = CombinedLoader(raw.iterables if combined else raw, mode)
        given, every.flattened = every.flattened, [shared(loader) for loader in every.flattened]
        if any(now is not then for now, then in zip(every.flattened, given, strict=True)):
            self.raw = CombinedLoader(every.iterables, mode) if combined else every.iterables
        every.flattened = [ready(loader) for loader in every.flattened]
        several = isinstance(raw, (dict, list, tuple, CombinedLoader)) and (training or mode != "sequential")
        return [every] if several else every.flattened

    def limits(self, limit: int | float, argument: str) -> list[int | float]:
        """Batches to run of each loader."""
        return [data.limit(length, limit, argument) for length in self.lengths]

    def due(self, every: int, epoch: int) -> bool:
        """Whether reload_dataloaders_every_n_epochs asks for new loaders in this epoch."""
        loaded_epoch = self.loaded_epoch if self.former is None else self.former["loaded_epoch"]
        return bool(every) and self.owner is not None and epoch - loaded_epoch >= every
