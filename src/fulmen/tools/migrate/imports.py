"""Old imports as today's, by the table of old paths, and the dotted names that are used through them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import libcst as cst

import fulmen
from fulmen.compat import names
from fulmen.tools.migrate.script import Script, literal, statement, table_path

SILENT = ("fulmen.compat.names", "fulmen.compat.types")
"""Rooms of compat of which there is nothing to say."""

OLD = re.compile(rf"({'|'.join(names.ROOTS)})(\.\w+)*")
CLASSES = ("_target_", "class_path", "target")
"""Keys of configurations whose values are classes."""

IN_YAML = re.compile(rf":\s*['\"]?(({'|'.join(names.ROOTS)})(\.\w+)+)")
OF_LOGGERS = re.compile(rb"\b(self|super\(\))\.(_convert_params|_flatten_dict|_sanitize_params|_add_prefix|close)\(")
"""What loggers of one's own called on their base class, which has it only by the old import."""


def rewrite(script: Script) -> None:
    for node in script.all(cst.Attribute):
        _find_missing(script, node)
    for node in script.all(cst.ImportFrom):
        _from_import(script, node)
    for node in script.all(cst.ImportAlias):
        if isinstance(script.parents[node], cst.Import):
            _alias(script, node)
    for node in script.all(cst.Attribute):
        _chain(script, node)
    for node in script.all(cst.SimpleString):
        _string(script, node)


def module_today(path: str) -> str:
    """The module that has most of the names of an old one."""
    if path in names.STARRED:
        return names.STARRED[path]
    homes = Counter(home.partition(":")[0] for home in names.rows()[path].homes.values())
    return "fulmen" if not path else max(homes, key=lambda module: homes[module], default="")


def _find_missing(script: Script, node: cst.Attribute) -> None:
    """A dotted name that leads to nothing today: its import stays."""
    module, _, name = script.dotted(node).rpartition(".")
    path = table_path(module)
    if path is not None and not names.home(path, name) and not names.is_path(path, name) and name != "pytorch":
        script.leave(node, _missing(path, name, script.code(node)), keep=node)


def _missing(path: str, name: str, code: str) -> str:
    return f"{code} {names.missing(path, name) or 'has no counterpart in Fulmen.'}"


def _alias(script: Script, node: cst.ImportAlias) -> None:
    """`import old.path`, `import old.path as name`."""
    module = script.code(node.name)
    path = table_path(module)
    local = script.code(node.asname.name) if node.asname else module.split(".")[0]
    if path is None or local in script.kept:
        if module.partition(".")[0] in names.ROOTS:
            script.leave(node, f"import {module} stays: what it is used for is not in Fulmen, or is left.")
        return
    today: Any = cst.parse_expression(module_today(path) or "fulmen")
    script.edit(node, lambda old: old.with_changes(name=today))


def _chain(script: Script, node: cst.Attribute) -> None:
    """A dotted name, such as `L.callbacks.early_stopping.EarlyStopping`."""
    dotted, code = script.dotted(node), script.code(node)
    local = code.split(".")[0]
    if local in script.kept or dotted.partition(".")[0] not in names.ROOTS:
        return
    if isinstance(script.parents[node], cst.Decorator) and script.edits[script.parents[node]]:  # it goes
        return
    home = script.home(node)
    base = script.dotted(node).removesuffix(code.removeprefix(local))  # what the local name stands for
    target = "fulmen" if local in names.ROOTS else module_today(table_path(base) or "")
    if not home:
        path = table_path(dotted)
        longer = isinstance(script.parents[node], cst.Attribute)
        if path is not None and not longer and f"fulmen.{path}".rstrip(".") != module_today(path):
            script.leave(node, f"{code} is a module that is not in Fulmen; {module_today(path)} has its names.")
        elif path is not None and not longer:
            script.replace(node, module_today(path).replace(target, "fulmen" if local in names.ROOTS else local, 1))
        return
    script.replace(node, _spelled(script, home, "fulmen" if local in names.ROOTS else local, target))
    _tell_of_compat(script, node, home)


def _spelled(script: Script, home: str, local: str, target: str) -> str:
    """A home as an expression, where `local` stands for the module `target`."""
    module, name = today(script, home).split(":")
    if module == target:
        return f"{local}.{name}"
    if target == "fulmen" and module.startswith("fulmen.") and module.count(".") == 1:
        return f"{local}.{module.removeprefix('fulmen.')}.{name}"
    script.needed.add(f"import {module}")
    return f"{module}.{name}"


def today(script: Script, home: str) -> str:
    """The shortest home, or torchmetrics' where an old metric is nothing else than one of theirs."""
    if (name := home.partition(":")[2]) in dir(fulmen):
        return f"fulmen:{name}"
    if home.startswith("fulmen.compat.metrics:") and b"compute_on_step" not in script.tree.bytes:
        metric = names.load(home)
        theirs = [kind for kind in metric.__mro__ if kind.__module__.startswith("torchmetrics.")]
        if theirs[0].__name__ != "Metric" or metric.__name__ == "Metric":
            package = theirs[0].__module__.split(".")[1]
            return f"torchmetrics{'.image' if package == 'image' else ''}:{theirs[0].__name__}"
    return home


def _tell_of_compat(script: Script, node: cst.CSTNode, home: str) -> None:
    module, name = today(script, home).split(":")
    if module.startswith("fulmen.compat.") and module not in SILENT:
        script.leave(node, f"{name} has no exact counterpart today; it comes from {module}, which keeps its meaning.")


def _from_import(script: Script, node: cst.ImportFrom) -> None:
    """`from old.path import names`, a line for each module where they are now."""
    module = "" if node.module is None or node.relative else script.code(node.module)
    path = table_path(module)
    if module.partition(".")[0] not in names.ROOTS:
        return
    if path is None or isinstance(node.names, cst.ImportStar):
        script.leave(node, f"`from {module} import ...` stays: name what you use of it, and where it is today.")
        script.kept.add(module)
        return
    groups: dict[str, list[str]] = defaultdict(list)
    left = []
    for alias in node.names:
        where = _place(script, alias, path)
        if where is None:
            left.append(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT))
        elif where:
            before, _, after = where.rpartition(":")
            groups[before].append(after)
    if not left and len(groups) == 1 and len(node.names) == len(*groups.values()):
        _in_place(script, node, *groups.items())
        return
    lines = [statement(f"from {m} import {', '.join(some)}" if m else some[0]) for m, some in groups.items()]
    rest = [node.with_changes(names=left, lpar=None, rpar=None)] if left else []
    script.rewrite(node, lambda _: [*lines, *rest])


def _place(script: Script, alias: cst.ImportAlias, path: str) -> str | None:
    """Where an imported name is, as "module:name [as name]"; None: its import stays; "": it is not needed."""
    old = script.code(alias.name)
    local = script.code(alias.asname.name) if alias.asname else old
    if local in script.kept:
        return None
    home = names.home(path, old)
    if home == "fulmen.loggers:Logger" and (called := OF_LOGGERS.search(script.tree.bytes)):
        sentence = f"{called[2].decode()}() of loggers is left, and with it the import of their base class."
        script.leave(alias, sentence, keep=alias.asname.name if alias.asname else alias.name)
        return None
    if old == "LoggerCollection":
        script.leave(alias, "LoggerCollection is left: trainer.loggers is a list today.", keep=alias.name)
        return None
    if home == "fulmen.compat.functions:data_loader":
        return ""
    if home:
        _tell_of_compat(script, alias, home)
        home = today(script, home)
        return home if home.endswith(f":{local}") else f"{home} as {local}"
    below = f"{path}.{old}" if path else old
    module = module_today(below) if below in names.rows() else "fulmen" if old == "pytorch" else ""
    if not module:
        script.leave(alias, _missing(path, old, old))
        return None
    if "." not in module:
        return f":import {module} as {local}"
    before, _, last = module.rpartition(".")
    return f"{before}:{last}" if last == local else f"{before}:{last} as {local}"


def _in_place(script: Script, node: cst.ImportFrom, group: tuple[str, list[str]]) -> None:
    """All names are in one module: the line keeps its form."""
    module, aliases = group
    if not module:
        script.rewrite(node, lambda _: [statement(aliases[0])])
        return
    new = [statement(f"from {module} import {one}").names[0] for one in aliases]

    def edit(old: cst.ImportFrom) -> cst.ImportFrom:
        pairs = zip(old.names, new, strict=True)  # type: ignore[arg-type]
        named = [one.with_changes(name=now.name, asname=now.asname) for one, now in pairs]
        return old.with_changes(module=cst.parse_expression(module), names=named)

    script.edit(node, edit)


def _string(script: Script, node: cst.SimpleString) -> None:
    """`logging.getLogger("pytorch_lightning")`; other strings with an old path are only pointed out."""
    text = literal(node) or ""
    call = script.parents[script.parents[node]]
    if not OLD.fullmatch(text):
        for found in IN_YAML.finditer(text):
            script.leave(node, f"the text names the old path {found[1]!r}; Fulmen's are other ones.")
        return
    if isinstance(call, cst.Call) and script.dotted(call.func) == "logging.getLogger":
        script.replace(node, f"{node.quote}fulmen{node.quote}")
        return
    module, _, name = text.rpartition(".")
    home = names.home(table_path(module) or "", name) if module else None
    element = script.parents[node]
    if home and isinstance(element, cst.DictElement) and literal(element.key) in CLASSES:
        script.replace(node, repr(today(script, home).replace(":", ".")).replace("'", node.quote))
    elif "." in text or "_" in text:
        script.kept.update([text] if home else [])
        script.leave(node, f"the string {text!r} names an old path; Fulmen's are other ones.")
