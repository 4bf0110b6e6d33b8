"""`fulmen migrate FILE ...`: the files, their differences, and what is left."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fulmen.errors import MisconfigurationException


def main(paths: Sequence[str], check: bool) -> int:
    """Rewrite the files, or with `check` only show what would change; returns the exit status."""
    try:
        from fulmen.tools.migrate.rewrite import migrate
    except ModuleNotFoundError as error:
        raise MisconfigurationException(f"fulmen migrate needs {error.name}: pip install 'fulmen[migrate]'.") from None
    changed = failed = 0
    for path in _files(paths):
        try:
            source = path.read_bytes()
            new, notes, mixed = migrate(source)
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        if new != source:
            changed += 1
            sys.stdout.write(difference(source, new, str(path)))
            if not check:
                path.write_bytes(new)
        for line, sentence in notes:
            print(f"{path}:{line}: {sentence}", file=sys.stderr)
        if mixed:
            print(f"{path}: what is left needs `fulmen run {path}`, which runs old and new together.", file=sys.stderr)
    verb = "would change" if check else "changed"
    print(f"{changed} file{'s' * (changed != 1)} {verb}.", file=sys.stderr)
    return 1 if failed or (check and changed) else 0


def _files(paths: Sequence[str]) -> Iterator[Path]:
    """The files, and the Python files in folders."""
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def difference(old: bytes, new: bytes, path: str) -> str:
    """A unified diff."""
    before, after = (text.decode(errors="replace").splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(before, after, path, path))
