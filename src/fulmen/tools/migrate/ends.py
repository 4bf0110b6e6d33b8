"""Hooks that got what the steps of an epoch returned: today's take it from a list that the module keeps."""

from __future__ import annotations

from typing import Any

import libcst as cst

from fulmen.compat.hooks import ENDS, MOMENTS
from fulmen.tools.migrate.classes import Owner, is_open, method, owners, parameters, starting_with, uses, without
from fulmen.tools.migrate.returned import calls_of, logged, returned
from fulmen.tools.migrate.script import OpenError, Script, literal

STEPS = {"train": "training_step", "validation": "validation_step", "test": "test_step", "predict": "predict_step"}
MONITOR = 'monitor="val_loss"'


def rewrite(script: Script) -> None:
    found = owners(script)
    for owner in found:
        for name in owner.methods.keys() & ENDS.keys() if owner.kind == "LightningModule" else ():
            try:
                End(script, owner, name, found).rewrite()
            except OpenError as error:
                today = f"today: on_{ENDS[name]}_epoch_end(self), with a list that the steps fill. It still works."
                script.leave(owner.methods[name], f"{owner.name}.{name} is left, because {error}; {today}")


class End:
    """One such hook of one class; `found` are all classes of the file."""

    def __init__(self, script: Script, owner: Owner, name: str, found: list[Owner]) -> None:
        self.script, self.owner, self.name, self.found = script, owner, name, found
        self.function, self.stage = owner.methods[name], ENDS[name]
        self.kept = f"{STEPS[self.stage]}_outputs"

    def rewrite(self) -> None:
        dicts, others = returned(self.script, self.function)
        outputs = parameters(self.function)
        used = bool(outputs) and uses(self.script, self.function, outputs[0])
        self._check(outputs, bool(others))
        step = self._step() if used else None
        lines = [logged(self.script, self.function, one, lambda key: True) for one in dicts]
        for one, code in zip(dicts, lines, strict=True):
            self._log(one.made, code)
            if self.stage == "validation" and "val_loss" in one.keys:
                self._watch()
        before: list[Any] = []
        if step is not None:
            before = self._hook("epoch_start", [], f"self.{self.kept} = []") + self._batch_end(step)

        def edit(old: cst.FunctionDef) -> Any:
            new = without(old, outputs).with_changes(name=cst.Name(f"on_{self.stage}_epoch_end"), returns=None)
            if before:
                new = new.with_changes(leading_lines=new.leading_lines or [cst.EmptyLine(indent=False)])
            if used:
                new = starting_with(new, f"{outputs[0]}, self.{self.kept} = self.{self.kept}, []")
            return cst.FlattenSentinel([*before, new])

        self.script.edit(self.function, edit)

    def _check(self, outputs: list[str], returns_others: bool) -> None:
        """Raise where it is not sure that today's hooks do the same."""
        names = {name for name, stage in ENDS.items() if stage == self.stage}
        hooks = {f"on_{self.stage}_{when}" for when in ("epoch_start", "batch_end", "epoch_end")}
        end = f"on_{self.stage}_epoch_end"
        modules = {
            name for one in self.found if one.kind != "Callback" and one is not self.owner for name in one.methods
        }
        callbacks = {name for one in self.found if one.kind == "Callback" for name in one.methods}
        text = self.script.tree.bytes
        resumes = self.stage == "train" and (b"resume_from_checkpoint" in text or b"ckpt_path" in text)
        called = {node.attr.value for node in self.script.all(cst.Attribute)}
        for wrong, reason in (
            (not self.owner.sure, "not all bases of the class are known"),
            (len(outputs) != 1 or is_open(self.function), "its arguments are no plain (self, outputs)"),
            (len(names & self.owner.methods.keys()) > 1, "there are two such hooks"),
            (names & called, "it is called by other code"),
            (self._named(end), f"there is {' and '.join(self._named(end))} as well"),
            (hooks & modules, "another class of the file has hooks of the same moments"),
            (
                callbacks & {end, "on_epoch_end"},
                "callbacks of the file have a hook of that moment, and come first today",
            ),
            (returns_others, "what it returns is not written out as a dict"),
            (self.kept.encode() in text, f"there is {self.kept} already"),
            (resumes, "a run resumed within an epoch would have the outputs since then only"),
        ):
            if wrong:
                raise OpenError(reason)

    def _named(self, hook: str) -> list[str]:
        """The class's own hooks that have this name, or will have it today."""
        return [name for name in self.owner.methods if hook in (name, *MOMENTS.get(name, ())[:1])]

    def _step(self) -> cst.FunctionDef:
        """The step of the class or of its bases in the file."""
        name = STEPS[self.stage]
        steps = [one.methods[name] for one in (self.owner, *self.found) if name in one.methods]
        if not steps or (name not in self.owner.methods and len(steps) > 1):
            raise OpenError(f"its {name} is not in the file")
        if is_open(steps[0]) or len(parameters(steps[0])) > 2:
            raise OpenError("there may be several loaders or optimizers, each with a list")
        return steps[0]

    def _log(self, made: Any, lines: list[str]) -> None:
        for node in self.script.all(cst.Return, self.function.body):
            end = [] if self.script.parents[node] is self.function.body.body[-1] else [cst.Return()]
            if node is made:
                self.script.rewrite(node, lambda old, end=end: [*calls_of(old, lines), *end])
            elif isinstance(made, cst.Assign) and made.targets[0].target.deep_equals(node.value or node):
                self.script.rewrite(node, lambda _, end=end: end)
        if isinstance(made, cst.Assign):
            self.script.rewrite(made, lambda old: calls_of(old, lines))

    def _watch(self) -> None:
        """Checkpoints that were told nothing else watched a returned "val_loss"."""
        calls = [call for call in self.script.all(cst.Call) if self.script.name(call.func) == "ModelCheckpoint"]
        for call in calls:
            named = [arg.keyword.value for arg in call.args if arg.keyword]
            if "monitor" not in named and len(call.args) - len(named) < 2:
                more: Any = cst.parse_expression(f"f({MONITOR})")
                self.script.edit(call, lambda old, more=more: old.with_changes(args=[*old.args, *more.args]))
        if not calls:
            sentence = f"the checkpoint with the best val_loss was kept; today ModelCheckpoint({MONITOR}) does that."
            self.script.leave(self.function, sentence)

    def _batch_end(self, step: cst.FunctionDef) -> list[Any]:
        """The hook that keeps a step's output, if there is one."""
        last = step.body.body[-1]
        last = last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last
        returns = [node.value for node in self.script.all(cst.Return, step.body)]
        given, kept, there = ["outputs", "batch", "batch_idx", "dataloader_idx=0"], "outputs", "outputs is not None"
        strings = [literal(node) for node in self.script.all(cst.SimpleString, self.function)]
        if self.stage == "train":
            given, there = given[:-1], "outputs"
            if "loss" in strings and b"accumulate_grad_batches" in self.script.tree.bytes:
                # hooks get the share of it that is differentiated
                kept = '{**outputs, "loss": outputs["loss"] * self.trainer.accumulate_grad_batches}'
        line = f"self.{self.kept}.append({kept})"
        always = None not in returns and isinstance(last, cst.Return)
        return self._hook("batch_end", given, line if always else f"if {there}:\n    {line}")

    def _hook(self, when: str, given: list[str], line: str) -> list[Any]:
        """A hook with a line; nothing where the hook is there already and gets the line."""
        name = f"on_{self.stage}_{when}"
        own = self.owner.methods.get(next(iter(self._named(name)), name))
        if own is None:
            line = line.replace("\n", "\n    ")
            return [method(f"def {name}({', '.join(['self', *given])}):\n    {line}\n")]
        if given and parameters(own)[:1] != ["outputs"]:
            raise OpenError(f"{name} does not take outputs")
        self.script.edit(own, lambda old: starting_with(old, line))
        return []
