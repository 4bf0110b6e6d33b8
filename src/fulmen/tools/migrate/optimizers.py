"""training_step with `optimizer_idx`: today's modules with several optimizers step them themselves."""

from __future__ import annotations

from typing import Any

import libcst as cst

from fulmen.tools.migrate.classes import Owner, is_called, method, owners, parameters
from fulmen.tools.migrate.returned import returned
from fulmen.tools.migrate.script import OpenError, Script

OTHERS = (
    "optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping", "training_step_end",
    "training_end", "training_epoch_end", "tbptt_split_batch", "on_before_zero_grad",
)  # fmt: skip
ARGUMENTS = ("gradient_clip_val", "accumulate_grad_batches", "max_steps", "truncated_bptt_steps", "min_steps")
STEP = """
def training_step(self, {batch}, {idx}):
    for {optimizer_idx}, optimizer in enumerate(self.optimizers()):
        self.toggle_optimizer(optimizer)
        loss = self.loss_of_optimizer({batch}, {idx}, {optimizer_idx}){item}
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
"""


def rewrite(script: Script) -> None:
    if not any(node.name.value.endswith("toggle_optimizer") for node in script.all(cst.FunctionDef)):
        _toggles(script)
    for owner in owners(script):
        step = owner.methods.get("training_step")
        if owner.kind != "LightningModule" or step is None or not any("opt" in one for one in parameters(step)[2:]):
            continue
        try:
            _step(script, owner, step)
        except OpenError as error:
            sentence = f"{owner.name}.training_step has an optimizer_idx and is left, because {error};"
            today = "today it is manual optimization: self.automatic_optimization = False. It still works."
            script.leave(step, f"{sentence} {today}")


def _toggles(script: Script) -> None:
    """`toggle_optimizer(optimizer, idx)` and `untoggle_optimizer(idx)` are told the optimizer today, and only that."""
    optimizers: dict[Any, cst.BaseExpression] = {}
    for call in script.all(cst.Call):
        name = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        function, given = script.method_of(call), [arg.value for arg in call.args]
        if name in ("toggle_optimizer", "_run_early_stopping_check") and len(given) == 2:
            optimizers[function, script.code(given[1])] = given[0]
            script.edit(call, lambda old: old.with_changes(args=[cst.Arg(old.args[0].value)]))
        elif name == "untoggle_optimizer" and (optimizer := optimizers.get((function, *map(script.code, given)))):
            script.edit(call, lambda old, new=optimizer: old.with_changes(args=[cst.Arg(new)]))


def _step(script: Script, owner: Owner, step: cst.FunctionDef) -> None:
    call = _super_init(script, owner)
    count = _count(script, owner)
    dicts, others = returned(script, step)
    text = script.tree.bytes
    named = {arg.keyword.value for arg in script.all(cst.Arg) if arg.keyword}
    for wrong, reason in (
        (not owner.sure, "not all bases of the class are known"),
        (len(parameters(step)) != 3, "it has more arguments"),
        (call is None, "there is no line super().__init__() to write behind"),
        (is_called(script, "training_step"), "it is called by other code"),
        (count < 2, "configure_optimizers does not simply return several optimizers"),
        (any(name in owner.methods for name in OTHERS), "the class has other hooks of the optimization"),
        (named & {*ARGUMENTS}, "the Trainer has arguments for the optimization"),
        (b"automatic_optimization" in text or b"global_step" in text, "of automatic_optimization or global_step"),
        (b"TrainResult" in text, "the file has a TrainResult"),
        (bool(dicts) == bool(others), "it returns sometimes a dict, sometimes not"),
        (any(node.value is None for node in script.all(cst.Return, step.body)), "it may return nothing"),
    ):
        if wrong:
            raise OpenError(reason)
    batch, idx, optimizer_idx = parameters(step)
    names = {"batch": batch, "idx": idx, "optimizer_idx": optimizer_idx, "item": '["loss"]' if dicts else ""}
    new = method(STEP.format(**names).strip() + "\n")
    renamed = cst.Name("loss_of_optimizer")
    script.edit(step, lambda old: cst.FlattenSentinel([new, old.with_changes(name=renamed)]))
    manual = cst.parse_statement("self.automatic_optimization = False")
    script.edit(call, lambda old: cst.FlattenSentinel([old, manual]))  # type: ignore[arg-type]
    script.leave(step, f"trainer.global_step counts every optimizer's step now, {count} for each batch.")


def _super_init(script: Script, owner: Owner) -> cst.SimpleStatementLine | None:
    """The line of the constructor that calls the base class's."""
    init: Any = owner.methods.get("__init__")
    lines = [] if init is None else init.body.body
    starts = ("super().__init__(", f"super({owner.name}, self).__init__(")
    return next((line for line in lines if script.code(line).startswith(starts)), None)


def _count(script: Script, owner: Owner) -> int:
    """How many optimizers configure_optimizers returns, 0 where that cannot be seen, or where there are schedulers."""
    function = owner.methods.get("configure_optimizers")
    returns: list[Any] = [] if function is None else [node.value for node in script.all(cst.Return, function)]
    if len(returns) != 1 or not isinstance(returns[0], (cst.List, cst.Tuple)):
        return 0
    elements = [one.value for one in returns[0].elements]
    if len(elements) == 2 and isinstance(elements[0], cst.List):
        if not isinstance(elements[1], cst.List) or elements[1].elements:
            return 0
        elements = [one.value for one in elements[0].elements]
    made = {script.code(node.targets[0].target): node.value for node in script.all(cst.Assign, function)}
    values = [made.get(script.code(one), one) for one in elements]
    return len(values) if all(isinstance(value, cst.Call) for value in values) else 0
