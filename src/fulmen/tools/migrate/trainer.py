"""Arguments of the Trainer and of its verbs, and what is read on it: compat's tables, asked before the program runs.

Where the value of an argument is an expression, it is translated only if that is the same for every value.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from dataclasses import dataclass
from typing import Any

import libcst as cst

from fulmen import callbacks as today
from fulmen.compat import argparse, arguments, attributes, devices
from fulmen.compat.callbacks import Resume, RowInterval
from fulmen.compat.names import ROOTS
from fulmen.tools.migrate.arguments import GIVEN, spell
from fulmen.tools.migrate.script import Script, literal
from fulmen.trainer import Trainer

VERBS = {verb: list(inspect.signature(getattr(Trainer, verb)).parameters) for verb in ("fit", "validate", "test")}
SAME = {
    "running_sanity_check", "training_type_plugin", "accelerator_backend", "max_nb_epochs", "min_nb_epochs",
    "nb_gpu_nodes", "proc_rank", "batch_idx", "batch_nb", "total_batch_idx", "tested_ckpt_path",
}  # fmt: skip
"""Attributes of which only the name is another today."""
DEVICES = {name for name, (rule, *_) in arguments.RULES.items() if rule.__module__ == devices.__name__}
PACKAGES = {"fulmen", *ROOTS, f"{ROOTS[1]}.pytorch"}
BARS = {"progress_bar_refresh_rate", "process_position"}
OPEN = "what it is today depends on its value."


@dataclass(eq=False)
class Expression:
    """A value that is known when the program runs; `name` is the class that it is made of, where that can be seen."""

    code: str
    name: str

    def __repr__(self) -> str:
        return self.code

    @property
    def wrap_step(self) -> None:
        """What tells a strategy among plugins."""
        if not self.name.endswith("Strategy"):
            raise AttributeError


class Told(arguments.Translation):
    """A translation that is for any machine, and keeps what it would have said."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given, set(arguments.DEFAULTS))
        self.said = ""

    def say(self, name: str, spelling: str) -> None:
        self.said = self.said or spelling

    def num_gpus(self) -> int:
        return 1_000_000


def rewrite(script: Script) -> None:
    for call in script.all(cst.Call):
        if script.name(call.func) == "Trainer":
            Constructor(script, call).rewrite()
        elif isinstance(call.func, cst.Attribute) and call.func.attr.value in VERBS and is_trainer(script, call.func):
            _verb(script, call, call.func.attr.value)
        elif isinstance(call.func, cst.Attribute):
            _class_method(script, call, call.func)
    for node in script.all(cst.Attribute):
        if is_trainer(script, node):
            _attribute(script, node)
    for part in script.all(cst.Subscript):  # of several loggers, which were one
        if found := re.fullmatch(r"(.+\.)logger\.experiment\[(\d+)\]", script.code(part)):
            script.replace(part, f"{found[1]}loggers[{found[2]}].experiment")


def is_trainer(script: Script, node: cst.Attribute) -> bool:
    """Whether an attribute is one of a trainer."""
    owner = script.code(node.value)
    return owner.split(".")[-1] == "trainer" or script.made_of(owner) == "Trainer"


class Constructor:
    """One `Trainer(...)`."""

    def __init__(self, script: Script, call: cst.Call) -> None:
        self.script, self.call = script, call
        self.nodes = {arg.keyword.value: arg for arg in call.args if arg.keyword is not None}
        self.given = {name: self._value(arg.value) for name, arg in self.nodes.items()}
        self.now = {name: value for name, value in self.given.items() if name in arguments.DEFAULTS}
        self.new: dict[str, list[str]] = {}
        """For each argument that goes, what comes in its place."""
        self.callbacks: list[str] = []
        self.place = ""
        """The argument in whose place the callbacks go, if there are none yet."""

    def rewrite(self) -> None:
        if any(arg.keyword is None and not arg.star for arg in self.call.args):
            self.script.leave(self.call, "Trainer takes keyword arguments only; here are some without a name.")
            return
        old = [name for name in arguments.RULES if name in self.given and name not in arguments.DEFAULTS]
        groups = [[name for name in old if name in DEVICES], [name for name in old if name in BARS]]
        groups += [[name] for name in old if name not in DEVICES | BARS]
        for names in groups:
            try:
                self._translate(names)
            except (ValueError, TypeError, AttributeError) as error:
                self._leave(names or list(self.given), OPEN if isinstance(error, TypeError) else str(error))
        if self.new:
            self.script.edit(self.call, lambda old: spell(old, self.new, self.callbacks, self.place))

    def _leave(self, names: list[str], reason: str) -> None:
        shown = ", ".join(f"{name}={self.given[name]!r}" for name in names)
        self.script.leave(self.nodes[names[0]], f"Trainer({shown}) is left: {reason} It still works.")
        for name in ("accelerator", "strategy"):  # of the same group
            self.now.pop(name, None)

    def _value(self, node: cst.BaseExpression) -> Any:
        code = self.script.code(node)
        try:
            return ast.literal_eval(code)
        except (ValueError, SyntaxError):
            called = isinstance(node, cst.Call)
            return Expression(code, self.script.name(node.func) if called else self.script.made_of(code))

    def _translate(self, names: list[str]) -> None:
        """Find today's spelling of some arguments; those that were there already may change with them."""
        for name in names:
            self._check(name, self.given[name])
        if isinstance(self.given.get("gpus"), Expression) and "gpus" in names:
            self.now |= self._gpus(names)
        translation = Told(self.now | {name: self.given[name] for name in names})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = translation.result()
        before = arguments.DEFAULTS | self.now
        changed = {k: v for k, v in result.items() if v is not before[k] and v != before[k] and k != "callbacks"}
        self._check_used(names, changed, translation)
        callbacks = [code for one in translation.added if (code := self._callback(one, names, translation.said))]
        resumes = [one.path for one in translation.added if isinstance(one, Resume)]
        if resumes and not _resume(self.script, self.call, self.nodes[names[0]].value):
            raise ValueError("it is trainer.fit(ckpt_path=...) today.")
        if callbacks and not self._is_list(self.nodes.get("callbacks")):
            raise ValueError(f"it is callbacks=[..., {callbacks[0]}] today.")
        self.callbacks += callbacks
        goes = names + [name for name in changed if name in self.given]
        self.place = self.place or (goes[0] if callbacks else "")
        self.new |= {name: [] for name in goes}
        if goes:
            kept = {name: value for name, value in changed.items() if value not in (arguments.DEFAULTS[name], [])}
            self.new[goes[0]] = [f"{name}={self._code(value)}" for name, value in kept.items()]
        self.now |= changed

    def _check(self, name: str, value: Any) -> None:
        """Raise unless a value is known, or does not need to be."""
        if name == "gpus":
            return
        rule = arguments.RULES[name]
        kind = rule[0].__qualname__.split(".")[0]
        sure = arguments.ANY in rule or kind in ("_renamed", "_callback")
        if isinstance(value, Expression) and not sure and not (kind == "_switch_or_callback" and value.name):
            raise ValueError(OPEN)
        if name == "auto_select_gpus" and value:
            raise ValueError("it is devices=find_usable_cuda_devices(...) today.")

    def _gpus(self, names: list[str]) -> dict[str, Any]:
        """`gpus=args.gpus` as arguments of today, which is sure for numbers."""
        code = self.given["gpus"].code
        accelerator, devices = f'"gpu" if {code} else "cpu"', f'{code} or "auto"'
        option = f"--{code.rpartition('.')[2]}"
        for call in self.script.all(cst.Call):
            types = [self.script.code(arg.value) for arg in call.args if arg.keyword and arg.keyword.value == "type"]
            if types == ["int"] and option in [literal(arg.value) for arg in call.args]:
                names.remove("gpus")
                self.new["gpus"] = [f"accelerator={accelerator}", f"devices={devices}"]
                return {"accelerator": Expression(accelerator, ""), "devices": Expression(devices, "")}
        raise ValueError(f"for a number it is accelerator={accelerator}, devices={devices} today.")

    def _check_used(self, names: list[str], changed: dict[str, Any], translation: Told) -> None:
        used = [*changed.values(), *translation.added, *(getattr(one, "path", None) for one in translation.added)]
        for name in names:
            value = self.given[name]
            if isinstance(value, Expression) and arguments.ANY not in arguments.RULES[name] and value not in used:
                raise ValueError(OPEN)

    def _is_list(self, arg: cst.Arg | None) -> bool:
        """Whether callbacks can be added to what is given."""
        if arg is None or isinstance(arg.value, cst.List):
            return True
        return [type(value) for value in self.script.assigned[self.script.code(arg.value)]] == [cst.List]

    def _code(self, value: Any) -> str:
        """A value as it stands in the call, or else as Python writes it."""
        for name, given in self.given.items():
            if value is given and not isinstance(value, (int, float)):
                return f"{GIVEN}{name}"
        return f'"{value}"' if isinstance(value, str) else repr(value)

    def _callback(self, added: Any, names: list[str], said: str) -> str:
        """A callback that an argument is today, as code."""
        if isinstance(added, Expression):
            return self._code(added)
        if isinstance(added, (Resume, RowInterval)):
            return ""
        options = {
            today.ModelSummary: lambda: "max_depth=-1",
            today.TQDMProgressBar: lambda: ", ".join(
                f"{n.removeprefix('progress_bar_')}={self.given[n]!r}" for n in names
            ),
            today.GradientAccumulationScheduler: lambda: f"{GIVEN}accumulate_grad_batches",
            today.EarlyStopping: lambda: '"val_loss", patience=3, verbose=True',
        }
        options[today.RichProgressBar] = options[today.TQDMProgressBar]
        if type(added) not in options:
            raise ValueError(f"it is {said} today.")
        if isinstance(added, today.ModelSummary) and "full" not in self.given.values():
            return ""  # there is one anyway
        name = type(added).__name__.replace("Rich", "TQDM")
        return f"{self._prefix(name)}{name}({options[type(added)]()})"

    def _prefix(self, name: str) -> str:
        """What has to stand before a callback's name here."""
        func = self.call.func
        if isinstance(func, cst.Attribute) and self.script.dotted(func.value) in PACKAGES:
            return f"{self.script.code(func.value)}.callbacks."
        self.script.needed.add(f"from fulmen.callbacks import {name}")
        return ""


def _resume(script: Script, call: cst.Call, path: cst.BaseExpression) -> bool:
    """Give the path to the verbs that used it: the first call to fit, and tests and validations before it."""
    parent = script.parents[call]
    if not isinstance(path, (cst.Name, cst.Attribute, cst.SimpleString)):
        return False
    target = script.code(parent.targets[0].target) if isinstance(parent, cst.Assign) else ""
    found = []
    for one in script.all(cst.Call):
        verb = one.func.attr.value if isinstance(one.func, cst.Attribute) else ""
        after = script.positions[one].start.line >= script.positions[call].start.line
        if verb in VERBS and after and script.code(one.func).rpartition(".")[0] == target:
            found.append(one)
            if verb == "fit":
                break
    if not found or any(script.method_of(one) is not script.method_of(call) for one in found):
        return False
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    given = cst.Arg(path, keyword=cst.Name("ckpt_path"), equal=equal)
    for one in found:
        script.edit(one, lambda old: old.with_changes(args=[*old.args, given]))
    return True


def _verb(script: Script, call: cst.Call, verb: str) -> None:
    for arg in call.args:
        name = arg.keyword.value if arg.keyword else ""
        now = arguments.CALLS.get(name, name)
        if name in VERBS[verb] or now == name:
            continue
        if now in VERBS[verb]:
            script.edit(arg, lambda old, now=now: old.with_changes(keyword=cst.Name(now)))
        else:
            script.leave(arg, f"trainer.{verb}({name}=...) is not used; pass it to trainer.test(dataloaders=...).")


def _class_method(script: Script, call: cst.Call, function: cst.Attribute) -> None:
    """`Trainer.add_argparse_args(parser)`: the function that does it, with the class as its first argument."""
    name = function.attr.value
    if name not in {one.__name__ for one in argparse.TRAINER}:
        return
    script.needed.add(f"from fulmen.compat.argparse import {name}")
    script.leave(call, f"{name} has no counterpart today; it comes from fulmen.compat.argparse, and does what it did.")
    script.edit(call, lambda old: old.with_changes(func=cst.Name(name), args=[cst.Arg(old.func.value), *old.args]))


def _attribute(script: Script, node: cst.Attribute) -> None:
    name = node.attr.value
    spoken, _ = attributes.TRAINER.get(name, ("", None))
    owner, parent = script.code(node.value), script.parents[node]
    if name in ("current_epoch", "global_step") and isinstance(parent, (cst.AssignTarget, cst.AugAssign)):
        made = script.assigned[owner]
        keep = made[0].func if script.made_of(owner) and isinstance(made[0], cst.Call) else None
        script.leave(node, f"{owner}.{name} is kept by the trainer and its checkpoints today.", keep=keep)
    elif name == "get_model" and isinstance(parent, cst.Call):
        script.replace(parent, f"{owner}.lightning_module")
    elif name in SAME:
        script.replace(node, spoken.replace("trainer", owner, 1))
    elif spoken:
        script.leave(node, f"{owner}.{name} is {spoken} today; it still works.")
