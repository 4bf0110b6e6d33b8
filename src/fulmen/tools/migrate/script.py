"""One file while it is rewritten: its tree, what its names mean, the edits to make and what is left.

Everything is found in the tree as it was read, so that lines are those of the file; the edits run together at the end,
the innermost first, each on its node with the edits inside it made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import libcst as cst
from libcst import metadata

from fulmen.compat import names

Node = TypeVar("Node", bound=cst.CSTNode)
Small = cst.BaseSmallStatement
Edit = Callable[[Any], Any]


class OpenError(ValueError):
    """Something that is not known before the program runs."""


class Script:
    """What the rewriting functions read and write; `leave` is for what they cannot decide."""

    def __init__(self, source: bytes) -> None:
        wrapper = metadata.MetadataWrapper(cst.parse_module(source))
        self.tree = wrapper.module
        self.positions = wrapper.resolve(metadata.PositionProvider)
        self.parents = wrapper.resolve(metadata.ParentNodeProvider)
        self._qualified = wrapper.resolve(metadata.QualifiedNameProvider)
        self.edits: dict[cst.CSTNode, list[Edit]] = defaultdict(list)
        self.notes: set[tuple[int, str]] = set()
        self.kept: set[str] = set()
        """Names whose import stays, because something that they are used for is left."""
        self.needed: set[str] = set()
        """Imports that have to be added."""

    # ---- reading

    def all(self, kind: type[Node], inside: cst.CSTNode | None = None) -> list[Node]:
        """The nodes of a kind, in the file's order."""
        return [node for node in walk(inside or self.tree) if isinstance(node, kind)]

    def code(self, node: cst.CSTNode) -> str:
        return self.tree.code_for_node(node).strip()

    def dotted(self, node: cst.CSTNode) -> str:
        """The full name of what an expression takes from an import, such as "torch.nn.Linear"; else ""."""
        found = self._qualified.get(node, ())
        for one in found() if callable(found) else found:
            if one.source is metadata.QualifiedNameSource.IMPORT:
                return one.name
        return ""

    def home(self, node: cst.CSTNode) -> str:
        """Where that is now, as "module:name", by old imports as by today's; else ""."""
        dotted = self.dotted(node)
        module, _, name = dotted.rpartition(".")
        if dotted.startswith("fulmen."):
            return f"{module}:{name}"
        path = table_path(module)
        return "" if path is None else names.home(path, name) or ""

    def name(self, node: cst.CSTNode) -> str:
        """The same without the module: "Trainer"."""
        return self.home(node).rpartition(":")[2]

    @cached_property
    def assigned(self) -> dict[str, list[cst.BaseExpression]]:
        """What is assigned to each name in the file."""
        found: dict[str, list[cst.BaseExpression]] = defaultdict(list)
        for node in self.all(cst.Assign):
            found[self.code(node.targets[0].target)].append(node.value)
        return found

    def made_of(self, code: str) -> str:
        """The class that is called for the value of a name, if that is assigned once."""
        values = self.assigned[code]
        return self.name(values[0].func) if len(values) == 1 and isinstance(values[0], cst.Call) else ""

    def method_of(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The innermost function around a node."""
        while node in self.parents and not isinstance(node, cst.FunctionDef):
            node = self.parents[node]
        return node if isinstance(node, cst.FunctionDef) else None

    # ---- writing

    def leave(self, node: cst.CSTNode, sentence: str, keep: cst.CSTNode | None = None) -> None:
        """Say that something stays as it is; `keep` is an expression whose import has to stay for it."""
        self.notes.add((self.positions[node].start.line, sentence))
        if keep is not None:
            self.kept.add(self.code(keep).split(".")[0])

    def edit(self, node: cst.CSTNode, edit: Edit) -> None:
        self.edits[node].append(edit)

    def replace(self, node: cst.CSTNode, code: str) -> None:
        """Put an expression in the place of another."""
        new: Any = cst.parse_expression(code)
        self.edit(node, lambda old: new.with_changes(lpar=old.lpar, rpar=old.rpar) if old.lpar else new)

    def rewrite(self, small: Small, make: Callable[[Any], Sequence[Small]]) -> None:
        """Put what `make` gives in the place of a statement without a body, a line for each where it has its line."""
        line = self.parents[small]
        block = self.parents[line]
        alone = isinstance(block, cst.BaseCompoundStatement) or len(getattr(block, "body", ())) == 1
        if not isinstance(line, cst.SimpleStatementLine) or len(line.body) > 1:
            self.edit(small, lambda old: _in_one_line(list(make(old)) or [cst.Pass()], old))
            return

        def edit(old: cst.SimpleStatementLine) -> Any:
            made = list(make(old.body[0])) or ([cst.Pass()] if alone else [])
            lines = [cst.SimpleStatementLine([one]) for one in made]
            if not lines:
                return cst.RemoveFromParent()
            lines[0] = lines[0].with_changes(leading_lines=old.leading_lines)
            lines[-1] = lines[-1].with_changes(trailing_whitespace=old.trailing_whitespace)
            return cst.FlattenSentinel(lines)

        self.edit(line, edit)

    def result(self) -> bytes:
        """The file with all edits made."""
        tree = self.tree.visit(_Edits(self.edits))
        assert isinstance(tree, cst.Module)
        if self.needed:
            body = list(tree.body)
            first = next(i for i, line in enumerate(body) if any(map(_is_ours, walk(line))))
            body[first:first] = [cst.parse_statement(line) for line in sorted(self.needed)]
            tree = tree.with_changes(body=body)
        return tree.bytes


def _is_ours(node: cst.CSTNode) -> bool:
    """Whether a node is an import of Fulmen's, or an old one that stays."""
    code = cst.Module([]).code_for_node(node) if isinstance(node, (cst.Import, cst.ImportFrom)) else ""
    return any(root in code for root in ("fulmen", *names.ROOTS))


class _Edits(cst.CSTTransformer):
    def __init__(self, edits: dict[cst.CSTNode, list[Edit]]) -> None:
        super().__init__()
        self.edits = edits

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        for edit in self.edits.get(original_node, ()):
            updated_node = edit(updated_node)
        return updated_node


class Values(cst.CSTTransformer):
    """Puts expressions in the place of names."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__()
        self.values = values

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:  # noqa: N802
        return self.values.get(original_node.value, updated_node)


def _in_one_line(made: list[Any], old: Small) -> Any:
    made[-1] = made[-1].with_changes(semicolon=old.semicolon)
    return cst.FlattenSentinel(made)


def closing(kept: Any, last: Any) -> Any:
    """`kept` as the end of a list that `last` ended: with that one's comma, and its own comment."""
    own, end = (getattr(one.comma, "whitespace_after", None) for one in (kept, last))
    return kept.with_changes(
        comma=last.comma if kept is last else _with_comment(last.comma, "whitespace_after", own, end)
    )


def without_items(display: cst.Dict, places: Sequence[int]) -> cst.Dict:
    """A dict with some of its items only; the comment behind the last one stays."""
    kept, last = [display.elements[place] for place in places], display.elements[-1]
    if kept[-1] is last:
        return display.with_changes(elements=kept)
    own = getattr(kept[-1].comma, "whitespace_after", None)
    end = display.rbrace.whitespace_before
    kept[-1] = kept[-1].with_changes(comma=last.comma)
    return display.with_changes(elements=kept, rbrace=_with_comment(display.rbrace, "whitespace_before", own, end))


def _with_comment(node: Any, name: str, own: Any, end: Any) -> Any:
    """A comma or brace with the comment of the line `own` in the white space `end` that is called `name`."""
    both = isinstance(own, cst.ParenthesizedWhitespace) and isinstance(end, cst.ParenthesizedWhitespace)
    if not both or own.first_line.comment is None:
        return node
    return node.with_changes(**{name: end.with_changes(first_line=own.first_line)})


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from walk(child)


def table_path(module: str) -> str | None:
    """The row of the table of old paths that a module's name means, None for all others."""
    return names.table_path(module) if module.partition(".")[0] in names.ROOTS else None


def statement(code: str) -> Any:
    """A small statement, without the line around it."""
    line = cst.parse_statement(code)
    assert isinstance(line, cst.SimpleStatementLine)
    return line.body[0]


def literal(node: cst.CSTNode) -> Any:
    """The value of a plain string, else None."""
    value = node.evaluated_value if isinstance(node, cst.SimpleString) else None
    return value if isinstance(value, str) else None
