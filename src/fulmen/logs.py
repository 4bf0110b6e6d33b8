"""The store behind self.log: values by reference, running sums on the device, read only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor

from fulmen.errors import MisconfigurationException
from fulmen.slots import LOADER_SUFFIX, Known, MetricSlot, Slot, operation, slot_class, spelled
from fulmen.tree import batch_size as size_of
from fulmen.values import as_tensor, check_value, read, wide_tensor

if TYPE_CHECKING:
    from fulmen.strategy.base import Strategy

REDUCTIONS = ("mean", "sum", "min", "max")


@dataclass(frozen=True)
class Phase:
    """A group of hooks that log alike: which stage they belong to, and what on_step and on_epoch mean there."""

    stage: str  # "train", "validation" or "test"
    per_batch: bool
    on_step: bool
    on_epoch: bool

    @property
    def hooks(self) -> str:
        step = "training" if self.stage == "train" else self.stage
        return f"{step}_step" if self.per_batch else f"on_{self.stage}_start, on_{self.stage}_epoch_start or ..._end"


TRAIN_BATCH = Phase("train", True, True, False)
TRAIN_EPOCH = Phase("train", False, False, True)
PHASES = {
    "train": (TRAIN_BATCH, TRAIN_EPOCH),
    **{s: (Phase(s, True, False, True), Phase(s, False, False, True)) for s in ("validation", "test")},
}
"""For each stage the phase of its batches, and that of its start and end hooks."""


class LogStore:
    """All logged values of a run. `slots` is what self.log writes to at this moment."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.phase: Phase | None = None
        self.tables: dict[tuple[Phase, int | None], dict[str, Slot]] = {}
        self.slots: dict[str, Slot] = {}
        self.loader_idx: int | None = None  # set while several evaluation loaders run
        self.batch: Any = None
        self.unsynced: list[Slot] = []
        self.evaluation_rows = False  # whether an evaluation step logs with on_step=True
        self.ending: str | None = None  # the stage whose batches are over, until close(): its epoch values can be read
        self.callback: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}
        self.bar: dict[str, Any] = {}
        self.older: dict[str, Any] = {}  # training values that a validation under the same name came after
        self._sized: Any = None
        self._size = 1

    # ---- writing

    def enter(self, phase: Phase | None, loader_idx: int | None = None) -> None:
        """From here on self.log belongs to `phase` (None: not allowed)."""
        self.phase, self.loader_idx = phase, loader_idx
        self.slots = {} if phase is None else self.tables.setdefault((phase, loader_idx), {})

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nothing can be logged for a while."""
        phase, loader_idx = self.phase, self.loader_idx
        self.enter(None)
        try:
            yield
        finally:
            self.enter(phase, loader_idx)

    def open(self, name: str, value: Any, rule: tuple[Any, ...]) -> Slot:
        """Check a (hook, name) pair that is new, or logged with other options than before, and give its slot."""
        if self.phase is None:
            raise MisconfigurationException(
                f"self.log({name!r}, ...) was called where nothing can be logged. Call it inside a training, "
                "validation or test step or one of their start, end, backward or optimizer hooks (not in "
                "configure_optimizers, setup, predict or on_fit_*)."
            )
        known = self.slots.get(name)
        if known is not None and spelled(known.rule) == spelled(rule):  # from a checkpoint, or torch.mean for "mean"
            known.rule = rule
            return known
        if known is not None and isinstance(known.op, Known):
            known.rule, known.op = rule, rule[4]
            return known
        if known is not None:
            raise MisconfigurationException(
                f"self.log({name!r}, ...) was called twice with different arguments in the same hooks; log it with "
                "the same arguments each time, or under another name."
            )
        self._check(name, value, rule)
        if self.loader_idx is not None and not rule[6] and self._elsewhere(name):
            raise MisconfigurationException(
                f"self.log({name!r}, add_dataloader_idx=False) was called for several dataloaders, whose values "
                "would be mixed; leave add_dataloader_idx at True, or log each loader under its own name."
            )
        kind = slot_class(value, rule[4])
        key = name
        if self.loader_idx is not None and rule[6]:
            key = f"{name}{LOADER_SUFFIX}{self.loader_idx}"
        slot = kind(key, rule, self)
        if isinstance(value, Tensor) and value.dtype is torch.float64:
            slot.dtype = torch.float64
        self.slots[name] = slot
        if slot.on_step and slot.per_batch and slot.logger and self.phase.stage != "train":
            self.evaluation_rows = True
        return slot

    def _elsewhere(self, name: str) -> bool:
        return any(p is self.phase and i != self.loader_idx and name in t for (p, i), t in self.tables.items())

    def _check(self, name: str, value: Any, rule: tuple[Any, ...]) -> None:
        phase = self.phase
        assert phase is not None
        if not isinstance(name, str):
            raise TypeError(f"self.log: the name must be a str, not {name!r}.")
        if LOADER_SUFFIX in name:
            raise MisconfigurationException(
                f"self.log({name!r}, ...): names with {LOADER_SUFFIX!r} are reserved; leave the suffix out, it is "
                "added."
            )
        check_value(name, value)
        op = operation(rule[4])
        if not callable(op) and op not in REDUCTIONS:
            raise MisconfigurationException(
                f"self.log({name!r}, reduce_fx={op!r}): choose from {REDUCTIONS} or a function."
            )
        on_step = phase.on_step if rule[2] is None else rule[2]
        on_epoch = phase.on_epoch if rule[3] is None else rule[3]
        if not phase.per_batch and on_step:
            raise MisconfigurationException(
                f"self.log({name!r}, on_step=True) cannot be used in {phase.hooks}; log in the step, or with "
                "on_epoch=True."
            )
        if not on_step and not on_epoch:
            raise MisconfigurationException(
                f"self.log({name!r}, on_step=False, on_epoch=False) would log nothing; set at least one of the two."
            )

    def batch_size(self) -> int:
        """Samples in the batch of this step, measured at most once for each batch; 1 outside of steps."""
        batch = self.batch
        if batch is None:
            return 1
        if self._sized is not batch:
            self._sized, self._size = batch, size_of(batch)
        return self._size

    # ---- ranks

    def sync(self) -> None:
        """Bring the step's values logged with sync_dist together; every rank must have logged the same names."""
        slots, self.unsynced = self.unsynced, []
        self._same_on_all_ranks(slots)
        for op, group in _by_op(slots):
            latest = torch.stack([wide_tensor(s.last, self.strategy.root_device) for s in group])
            values = self.strategy.reduce(latest, reduce_op=op)
            for slot, value in zip(group, values.unbind(), strict=True):
                slot.last = value

    def _sync_epoch(self, slots: list[Slot]) -> None:
        slots = [s for s in slots if s.sync and not isinstance(s, MetricSlot)]
        if not slots:
            return
        self._same_on_all_ranks(slots)
        for op, group in _by_op(slots):
            totals = [wide_tensor(s.total, self.strategy.root_device) for s in group]
            if op == "mean":
                weights = [wide_tensor(s.weight, self.strategy.root_device) for s in group]
                summed = self.strategy.reduce(torch.stack(totals + weights), reduce_op="sum")
                for slot, total, weight in zip(group, summed, summed[len(group) :], strict=False):
                    slot.total, slot.weight = total, weight
            else:
                for slot, total in zip(group, self.strategy.reduce(torch.stack(totals), reduce_op=op), strict=True):
                    slot.total = total

    def _same_on_all_ranks(self, slots: list[Slot]) -> None:
        names = sorted(slot.name for slot in slots)
        digest = torch.tensor(crc32("\n".join(names).encode()), device=self.strategy.root_device)
        if bool((self.strategy.gather(digest) == digest).all()):
            return
        everyone = self.strategy.gather_object(names)
        union = set().union(*everyone)
        lacking = {rank: sorted(union - set(have)) for rank, have in enumerate(everyone) if union - set(have)}
        raise RuntimeError(
            f"self.log(..., sync_dist=True) needs the same names on every rank; missing (rank: names): {lacking}. "
            "Log them on every rank, or without sync_dist."
        )

    # ---- reading

    def live(self, keep: Callable[[Slot], bool]) -> dict[str, Any]:
        """The last value of each slot that is logged by step and wanted, under the name it has in a row."""
        found = {}
        for (phase, _), table in self.tables.items():
            if phase.per_batch:
                for slot in table.values():
                    if slot.last is not None and slot.on_step and keep(slot):
                        found[slot.step_name] = slot.last
        return found

    def read_row(self) -> dict[str, float]:
        """The training step's values for the loggers, as floats, in one transfer."""
        row = self.live(lambda slot: slot.logger)
        self.logged.update(row)
        return read(row)

    def callback_metrics(self) -> dict[str, Tensor]:
        found = dict(self.callback)
        for (phase, _), table in self.tables.items():
            if phase is TRAIN_BATCH:
                for slot in table.values():
                    if slot.last is not None and slot.on_step:
                        value = slot.typed(slot.last)
                        fresh = self.older.get(slot.name) is not slot.last
                        found |= {n: value for n in (slot.step_name, slot.name) if fresh or n != slot.name}
        for slot, value in self._epoch_values(self.ending):
            found[slot.name] = found[slot.epoch_name] = value
        return {name: as_tensor(value) for name, value in found.items()}

    def logged_metrics(self) -> dict[str, Tensor]:
        found = {**self.logged, **self.live(lambda s: s.logger)}
        found |= {s.epoch_name: v for s, v in self._epoch_values(self.ending) if s.logger}
        return {name: as_tensor(value) for name, value in found.items()}

    def read_bar(self) -> dict[str, float]:
        """The values for the progress bar, as floats, in one transfer."""
        found = {**self.bar, **self.live(lambda slot: slot.prog_bar)}
        return read(found | {s.epoch_name: v for s, v in self._epoch_values(self.ending) if s.prog_bar})

    def _slots_of(self, stage: str) -> list[Slot]:
        return [slot for _, table in self._tables_of(stage) for slot in table.values()]

    def _tables_of(self, stage: str) -> list[tuple[int | None, dict[str, Slot]]]:
        """Those of the batches first: what the end hooks log under the same name came later, and counts."""
        found = [(phase, idx, table) for (phase, idx), table in self.tables.items() if phase.stage == stage]
        return [(idx, table) for _, idx, table in sorted(found, key=lambda one: not one[0].per_batch)]

    def metrics_of(self, stage: str) -> set[int]:
        """The ids of the torchmetrics objects that a stage logs."""
        return {id(slot.metric) for slot in self._slots_of(stage) if isinstance(slot, MetricSlot)}

    def _epoch_values(self, stage: str | None) -> list[tuple[Slot, Any]]:
        slots = self._slots_of(stage) if stage is not None else []
        values = [(slot, slot.epoch_value()) for slot in slots if slot.on_epoch]
        return [(slot, slot.typed(value)) for slot, value in values if value is not None]

    def finish(self, stage: str) -> None:
        """The batches of a stage are over: what they logged by epoch can be read from here on."""
        self._sync_epoch([s for s in self._slots_of(stage) if s.per_batch])
        self.batch = None
        self.ending = stage

    def close(self, stage: str) -> dict[str, Any]:
        """End the epoch of a stage: its values stay readable under their names; returns those for the loggers."""
        slots = self._slots_of(stage)
        self._sync_epoch([s for s in slots if not s.per_batch])
        self.ending = None
        row: dict[str, Any] = {}
        for slot in slots:
            if slot.on_step and slot.last is not None and self.older.get(slot.name) is not slot.last:
                self._publish(slot, slot.step_name, slot.typed(slot.last), callback=stage == "train")
        for slot, value in self._epoch_values(stage):
            self._publish(slot, slot.epoch_name, value, callback=True)
            if slot.logger:
                row[slot.epoch_name] = value
        if stage != "train":
            published = {s.name for s in slots}
            self.older = {s.name: s.last for s in self._slots_of("train") if s.name in published}
        return row

    def clear(self, stage: str) -> None:
        """Start the sums of a stage anew, and reset its torchmetrics objects."""
        for slot in self._slots_of(stage):
            slot.clear()

    def _publish(self, slot: Slot, name: str, value: Any, callback: bool) -> None:
        if callback:
            self.callback[slot.name] = self.callback[name] = value
        if slot.prog_bar:
            self.bar[name] = value
        if slot.logger:
            self.logged[name] = value

    def by_loader(self, stage: str, num_loaders: int) -> list[dict[str, float]]:
        """The epoch's values of an evaluation, a dict for each loader; what no loader owns stands in all."""
        found: list[dict[str, Any]] = [{} for _ in range(num_loaders)]
        for idx, table in self._tables_of(stage):
            for slot in table.values():
                value = slot.epoch_value() if slot.on_epoch else None
                if value is not None:
                    for result in found if idx is None else [found[idx]]:
                        result[slot.epoch_name] = slot.typed(value)
        return [read(result) for result in found]

    def publish(self, values: dict[str, Any]) -> None:
        """Put ready values where callbacks read."""
        self.callback.update(values)

    def forget(self) -> None:
        """Empty everything (after the sanity check)."""
        for table in self.tables.values():
            for slot in table.values():
                slot.clear()
        for held in (self.tables, self.callback, self.logged, self.bar):
            held.clear()

    # ---- state

    def state(self, names: dict[int, str]) -> dict[str, Any]:
        """What the open epoch has gathered so far, as plain data; `names` are those of torchmetrics objects, by id."""
        tables = [
            {"per_batch": phase.per_batch, "slots": {n: s.state(names) for n, s in table.items()}}
            for (phase, _), table in self.tables.items()
            if phase.stage == "train"
        ]
        return {"tables": tables, "callback": dict(self.callback), "logged": dict(self.logged), "bar": dict(self.bar)}

    def load(self, state: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Put a state back; `metrics` are the module's torchmetrics objects by name."""
        self.callback, self.logged, self.bar = dict(state["callback"]), dict(state["logged"]), dict(state["bar"])
        for table in state["tables"]:
            self.enter(TRAIN_BATCH if table["per_batch"] else TRAIN_EPOCH)
            for name, held in table["slots"].items():
                metric = metrics.get(held["metric"])
                if (metric is None) == (held["metric"] is None):
                    rule = held["rule"]
                    op = Known(held["value"]) if "value" in held else rule[4]
                    slot = slot_class(metric, op)(name, (*rule[:4], op, *rule[5:]), self)
                    slot.load(held, metric)
                    self.slots[name] = slot
        self.enter(None)


def _by_op(slots: Iterable[Slot]) -> list[tuple[Any, list[Slot]]]:
    groups: dict[Any, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(slot.op, []).append(slot)
    return list(groups.items())
