"""What hooks that come once more in a run that goes on must not do twice, and what the user's objects keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fulmen import kept, seed
from fulmen.loop.resume import group_counts, restore_random

if TYPE_CHECKING:
    from fulmen.loop.train import TrainLoop


class Again:
    """Of a checkpoint, what is put back behind the hooks of a start: they came before it was made.

    Parameter groups that they add are taken away beforehand.
    """

    def __init__(self, loop: TrainLoop) -> None:
        self.loop, self.trainer = loop, loop.trainer
        self.groups: list[int] = []  # how many parameter groups the optimizers had when they were made,
        self.groups_then: list[int] = []  # and when the epoch began
        self.in_sanity: dict[str, Any] = {}  # what the check before the run changed of the user's objects
        self.state: dict[str, Any] = {}  # of a checkpoint, what `state_dict` and `own_state` gave
        self.logs: Callable[[], None] | None = None  # puts logged values back
        self.training: Callable[[], None] | None = None  # and weights and optimizers
        kept.forget()
        for source in (loop.source, loop.validation.source):
            source.first = None if source.owner is None else kept.note(source.owner, asked=False)

    def state_dict(self) -> dict[str, Any]:
        return {"groups": self.groups_then, "in_sanity": self.in_sanity}

    def load(self, state: dict[str, Any]) -> None:
        self.state, self.in_sanity = state, state.get("in_sanity", {})

    def before_start(self) -> None:
        self._cut(self.groups)

    def after_start(self) -> None:
        if self.training is not None:
            self.training()
        self.note()
        self.put_own_back()

    def before_epoch(self, resumed: bool) -> None:
        if resumed:
            self._cut(self.state.get("groups", []))
        self.groups_then = group_counts(self.trainer)

    def after_epoch_start(self, resumed: bool) -> None:
        if resumed and self.training is not None:
            self.training()
        if resumed and self.logs is not None:
            self.logs()
        if resumed:
            self.put_own_back()
        self.training = None  # and with it the checkpoint

    def before_loaders(self) -> None:
        """Whoever makes them anew has what it had by then; the trainer and the loop make none."""
        self.loop.source.former = None
        self.put_own_back({n: held for n, held in self.state.get("own", {}).items() if n not in ("trainer", "loop")})
        restore_random(self.loop.resume)

    def after_loaders(self) -> None:
        source, resume = self.loop.source, self.loop.resume
        made = {name: part for name, part in self.owners().items() if part is source.owner}
        own = {name: kept.changes(part, asked=False, since=source.first) for name, part in made.items()}
        self.state = {**self.state, "own": {**self.state.get("own", {}), **own}}
        if resume is not None:
            self.loop.resume = {**resume, "rng": seed.capture()}

    def _cut(self, counts: list[int]) -> None:
        for optimizer, count in zip(self.trainer.optimizers if self.loop.same_run else (), counts, strict=False):
            del optimizer.param_groups[count:]

    # ---- what the user's objects keep

    def note(self) -> None:
        """From here on, what changes is the run's."""
        kept.watch(*self.owners().values(), asked=False)
        kept.watch(*self.objects().values())
        for source in (self.loop.source, self.loop.validation.source):
            kept.watch_since(source.owner, source.first)  # what it changed as it made loaders, it may not make again

    def own_state(self) -> dict[str, Any]:
        """What they have changed since then."""
        moved = {name: kept.changes(part, asked=False) for name, part in self.owners().items()}
        moved |= {name: kept.changes(part) for name, part in self.objects().items()}
        modes = {id(module): mode for module, mode in self.loop.validation.modes.items()}  # a metric's hash changes
        modules = self.trainer.lightning_module.named_modules()
        evaluating = [name for name, module in modules if not modes.get(id(module), module.training)]
        return {"own": {name: held for name, held in moved.items() if any(held.values())}, "evaluating": evaluating}

    def before_check(self, under_way: bool) -> None:
        """The check before the run, which does not come again."""
        if under_way:
            self.put_own_back(self.in_sanity)
        else:
            self.note()

    def after_check(self) -> None:
        own = self.own_state()["own"]
        self.in_sanity = {name: held for name, held in own.items() if "own" not in held}

    def put_own_back(self, own: Any = None) -> None:
        """Not for fit(ckpt_path=PATH): what that begins with is the program's."""
        own = self.state.get("own", {}) if own is None else own
        if self.loop.same_run and (own or self.state):
            kept.put_parts_back(self.owners(), own, anew=False)
            kept.put_parts_back(self.objects(), own, anew=False)
            for name, module in self.trainer.lightning_module.named_modules() if "evaluating" in self.state else ():
                module.training = name not in self.state["evaluating"]

    def owners(self) -> dict[str, Any]:
        """What may keep something without saying so: modules, optimizers, what was set on the trainer, callbacks,
        loggers and a datamodule without a state_dict, and the generators of the files that these are in.
        """
        trainer = self.trainer
        found: dict[str, Any] = {"trainer": trainer, "loop": self.loop}
        for name, part in kept.by_kind([*trainer.callbacks, trainer.datamodule, *trainer.loggers]).items():
            ours: Any = next((kind for kind in type(part).__mro__ if kind.__module__.startswith("fulmen.")), None)
            named = getattr(ours, "__name__", "") in ("Callback", "LightningDataModule", "Logger")
            if named and type(part).state_dict is ours.state_dict:
                found[name] = part
        found |= {f"optimizer {number}": part for number, part in enumerate(trainer.optimizers)}
        found |= {f"module {name}": part for name, part in trainer.lightning_module.named_modules()}
        return found | kept.generators(found.values())

    def objects(self) -> dict[str, Any]:
        """What these hold that keeps something: meters, averaged weights, schedulers and metrics that nobody lists."""
        module, configs = self.trainer.lightning_module, self.trainer.lr_scheduler_configs
        known = {id(part) for part in (*module.modules(), *self.trainer.optimizers, *(c.scheduler for c in configs))}
        held = {name: kept.below(part, known) for name, part in self.owners().items()}
        return {f"{name}{path}": part for name, below in held.items() for path, part in below.items()}
