"""README and docs/ are true: their Python runs, block after block, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "ARCHITECTURE.md", *(TOP / "docs").rglob("*.md")])


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(TOP).as_posix() for page in pages]


def blocks(text: str) -> list[str]:
    """Each ```python block, moved to its own line number so that a traceback points into the page."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p.read_text())], ids=lambda p: p.relative_to(TOP).as_posix()
)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch):
    program = types.ModuleType("page")  # a module, so that classes of the page know where they are defined
    monkeypatch.setitem(sys.modules, "page", program)
    for block in blocks(page.read_text()):
        exec(compile(block, page, "exec"), vars(program))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(TOP).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path):
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_of_the_docs_is_linked_from_their_index():
    index = (TOP / "docs" / "index.md").read_text()
    assert [p.name for p in (TOP / "docs").rglob("*.md") if p.name != "index.md" and f"({p.name})" not in index] == []
