"""Methods by older names and with older signatures, and what old modules call on themselves."""

from __future__ import annotations

import inspect
from typing import Any

import libcst as cst

from fulmen import callbacks
from fulmen.callbacks.base import Callback
from fulmen.compat.hooks import MOMENTS, SIGNATURES, SOURCES, SPELLED
from fulmen.datamodule import LightningDataModule
from fulmen.hooks import CALLBACK_ONLY, MODULE_ONLY, SHARED
from fulmen.module import LightningModule
from fulmen.tools.migrate.classes import Owner, is_called, is_open, owners, parameters, uses, with_more, without
from fulmen.tools.migrate.script import Script, statement

BASES: dict[str, type] = {
    "LightningModule": LightningModule, "LightningDataModule": LightningDataModule, "Callback": Callback,
}  # fmt: skip
OLD = ("size", "load_from_metrics")
"""Members that base classes have only where they are reached by an old import."""
GIVEN = SHARED | CALLBACK_ONLY | MODULE_ONLY


def rewrite(script: Script) -> None:
    for owner in owners(script):
        for name, function in owner.methods.items():
            _decorators(script, function)
            if name == "tng_dataloader" and "train_dataloader" not in owner.methods:
                script.edit(function, lambda old: old.with_changes(name=cst.Name("train_dataloader")))
            elif name in MOMENTS and owner.kind in {base.__name__ for base in MOMENTS[name][2]}:
                _moment(script, owner, name)
            elif name in SIGNATURES:
                _signature(script, owner, name)
        _old_calls(script, owner)
        if owner.kind != "Callback" and "__init__" in owner.methods:
            for node in script.all(cst.Assign, owner.methods["__init__"]):
                _hparams(script, node)


def _decorators(script: Script, function: cst.FunctionDef) -> None:
    for decorator in function.decorators:
        if script.name(decorator.decorator) == "data_loader":
            script.edit(decorator, lambda _: cst.RemoveFromParent())


def _given(owner: Owner, hook: str) -> list[str]:
    return [*(("trainer", "pl_module") if owner.kind == "Callback" else ()), *GIVEN[hook]]


def _moment(script: Script, owner: Owner, name: str) -> None:
    """A hook that has another name today, and more arguments."""
    function, today = owner.methods[name], MOMENTS[name][0]
    same = [one for one in owner.methods if MOMENTS.get(one, (one,))[0] == today]
    given = _given(owner, today) if today in GIVEN else []
    lacking = given[len(parameters(function)) :]
    sure = today in SHARED and len(same) == 1 and len(parameters(function)) <= len(given)
    if not sure or is_called(script, name) or not owner.sure or _counts(script, name):
        script.leave(function, f"{owner.name}.{name} is left; {today} is its name today. It still works.")
        return

    def edit(old: cst.FunctionDef) -> cst.FunctionDef:
        named = old.with_changes(name=cst.Name(today))
        return named if is_open(function) else with_more(named, lacking)

    script.edit(function, edit)


def _counts(script: Script, name: str) -> bool:
    """Whether the program may ask for `global_step` in an old hook, which did not count the batch in hand."""
    asked = any(node.attr.value == "global_step" for node in script.all(cst.Attribute))
    return asked and name in ("on_batch_end", "on_train_batch_end")


def _signature(script: Script, owner: Owner, name: str) -> None:
    """Parameters that hooks no longer get go, if nothing uses them."""
    function, given = owner.methods[name], _given(owner, name)
    known = {*SOURCES, *(word for row in SIGNATURES[name] for word in row.split())} - {*given}
    words = {one: SPELLED.get(one, one) for one in parameters(function)}
    optional = [param.name.value for param in function.params.params if param.default is not None]
    behind = [one for i, one in enumerate(words) if not {*[*words.values()][i:]} & {*given}]
    extra = [one for one, word in words.items() if word in known and not (one in optional and one in behind)]
    if not extra:
        return
    rest = [word for one, word in words.items() if one not in extra and word in given]
    calls = (node for node in script.all(cst.Attribute) if node.attr.value == name)
    called = any(script.code(node.value) != "super()" for node in calls)
    unused = not called and not any(uses(script, function, one) for one in extra)
    counts = "dataloader_idx" not in optional and _counts(script, name)
    if unused and not counts and rest == [word for word in given if word in rest]:
        script.edit(function, lambda old: without(old, extra))
    elif extra == ["dataloader_idx"] and not counts:  # there is one loader in training
        script.edit(function, lambda old: with_more(without(old, extra), ["dataloader_idx=0"]))
    else:
        today = f"{name}({', '.join(['self', *given])})"
        script.leave(function, f"{owner.name}.{name} is left; it is {today} today. It still works.")


def _old_calls(script: Script, owner: Owner) -> None:
    """`self.manual_backward(loss, optimizer)`, and what only the base class of an old import has."""
    root, above = owner, {one.name: one for one in owners(script)}
    while (name := script.code(root.base)) in above:
        root = above.pop(name)
    home = script.home(root.base)
    base = getattr(callbacks, home.removeprefix("fulmen.callbacks:"), BASES[owner.kind])
    alone = [one.value for one in script.all(cst.Expr, owner.node)]
    for call in script.all(cst.Call, owner.node):
        code, args = script.code(call.func), [arg for arg in call.args if not arg.star]
        named = {arg.keyword.value: arg for arg in args if arg.keyword}
        if code == "self.manual_backward" and len(args) > 1:
            if places := [i for i, arg in enumerate(args) if i and "opt" in script.code(arg)]:
                script.edit(call, lambda old, places=places: _without_args(old, places))
            else:
                script.leave(call, f"{code}(loss, ...) is left, and with it the import of its class.", keep=root.base)
        hook = getattr(base, code.removeprefix("super()."), None)
        known = hook is not None and len(args) < len(call.args)  # what *args holds is not seen
        gives = code == "super().on_save_checkpoint" and owner.kind == "Callback" and call not in alone
        if gives or (code.startswith("super().") and not known and not _takes(hook, len(args) - len(named), named)):
            script.leave(call, f"{code}(...) is left, and with it the import of its base class.", keep=root.base)
    for node in script.all(cst.Attribute):
        made: Any = [*script.assigned[script.code(node.value)], node][0]
        maker = script.code(made.func).partition(".")[0] if isinstance(made, cst.Call) else ""
        of_class = owner.name in (script.code(node.value), maker)
        if home.startswith("fulmen.callbacks:") and script.code(node) == "self.main_progress_bar":
            script.replace(node, "self.train_progress_bar")
        if of_class and node.attr.value in OLD and node.attr.value not in owner.methods:
            script.leave(node, f"{script.code(node)} is left, and with it the import of its class.", keep=root.base)


def _takes(function: Any, count: int, named: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(*range(count + 1), **named)
    except TypeError:
        return False
    return True


def _without_args(call: cst.Call, places: list[int]) -> cst.Call:
    args = [arg for i, arg in enumerate(call.args) if i not in places]
    return call.with_changes(args=[*args[:-1], args[-1].with_changes(comma=call.args[-1].comma)])


def _hparams(script: Script, node: cst.Assign) -> None:
    if script.code(node.targets[0].target) == "self.hparams" and len(node.targets) == 1:
        call = statement("self.save_hyperparameters()")
        script.rewrite(node, lambda old: [call.with_deep_changes(call.value, args=[cst.Arg(old.value)])])
