"""Old arguments of callbacks and strategies."""

from __future__ import annotations

import os
from typing import Any

import libcst as cst

from fulmen.compat.constructors import RENAMED
from fulmen.compat.hooks import MOMENTS
from fulmen.tools.migrate.arguments import GIVEN, spell
from fulmen.tools.migrate.script import Script, literal


def rewrite(script: Script) -> None:
    for call in script.all(cst.Call):
        name = script.name(call.func)
        if name in RENAMED:
            _constructor(script, call, name)
        if name == "LambdaCallback" and (old := MOMENTS.keys() & {a.keyword.value for a in call.args if a.keyword}):
            script.leave(call, f"LambdaCallback({', '.join(sorted(old))}) is left. It still works.", keep=call.func)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "load_from_checkpoint":
            script.edit(call, lambda old: spell(old, {"tags_csv": [f"hparams_file={GIVEN}tags_csv"]}))
    for node in script.all(cst.ClassDef):
        bars = [base.value for base in node.bases if script.name(base.value) == "ProgressBar"]
        if bars and any(script.code(one).endswith("_batch_idx") for one in script.all(cst.Attribute, node)):
            script.leave(node, f"{node.name.value} reads how many batches the bar has seen.", keep=bars[0])


def _constructor(script: Script, call: cst.Call, kind: str) -> None:
    given = {arg.keyword.value: arg.value for arg in call.args if arg.keyword}
    new = {old: [f"{now}={GIVEN}{old}"] if now else [] for old, now in RENAMED[kind].items() if old in given}
    first = call.args[0].value if call.args and call.args[0].keyword is None else cst.Name("none")
    monitor = literal(given.get("monitor", first))
    if literal(given.get("mode", cst.Name("none"))) == "auto":
        rising = "acc" in (monitor or "") or (monitor or "").startswith("fmeasure")
        new["mode"] = [f'mode="{"max" if rising else "min"}"']
    if "filepath" in given:
        new["filepath"] = _template(script, given["filepath"])
    template = kind == "ModelCheckpoint" and ("{" in (literal(first) or "") or _template(script, first))
    if (
        template
        or {"prefix", "save_best_only"} & {*given}
        or new.get("filepath") == []
        or (monitor is None and "mode" in new)
    ):
        script.leave(call, f"{kind}(filepath, prefix, mode='auto') is dirpath, filename, mode today.", keep=call.func)
        return
    if kind == "EarlyStopping" and "monitor" not in given and (not call.args or call.args[0].keyword):
        monitored: Any = cst.parse_expression('f(monitor="val_loss")')
        script.edit(call, lambda old: old.with_changes(args=[*monitored.args, *old.args]))
    if new:
        script.edit(call, lambda old: spell(old, new))


def _template(script: Script, path: cst.BaseExpression) -> list[str]:
    """`dirpath` and `filename` of a path with a template at its end, else nothing: it may be a folder."""
    text = literal(path)
    if text is not None and "{" in os.path.basename(text):
        folder, name = os.path.split(text)
        return [f'dirpath="{folder or "."}"', f'filename="{name}"']
    if isinstance(path, cst.Call) and script.dotted(path.func) == "os.path.join" and len(path.args) > 1:
        name = literal(path.args[-1].value) or ""
        if "{" in name and "/" not in name:
            folders = [script.code(arg.value) for arg in path.args[:-1]]
            folder = folders[0] if len(folders) == 1 else f"{script.code(path.func)}({', '.join(folders)})"
            return [f"dirpath={folder}", f"filename={script.code(path.args[-1].value)}"]
    return []
