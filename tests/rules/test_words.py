"""Words that may stand only in compat/, and words that may stand nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rules.house import TOP, modules, none

ONLY_IN_COMPAT = re.compile(
    r"""\blightning\b            # the framework that Fulmen's users come from
      | \bpl\b                   # and its usual nickname
      | \b\d\.x\b                # its versions
      | (?<![.\d])v?[012]\.\d+\.\d+(?![.\d])
      | \b(?:since|before|until|after|in|version)\ v?[012]\.\d\b
      | \blegacy\b | \bdeprecated\b | \bbackwards?[- ]compat | \bold[- ](?:style|names?|versions?)\b""",
    re.IGNORECASE | re.VERBOSE,
)
# What stands in the source although a rule says otherwise, each with its reason.
EXCEPT = {
    '__version__ = "0.1.0"': "Fulmen's own version",
    "pytorch-lightning_version": "a key of the checkpoint's format",
    'VERSION = "2.6.6"': "the value that goes with that key",
    "`torch.jit.*deprecated": "the text of a warning of torch's",
}

NOWHERE = {
    "a path of somebody's machine": re.compile(r"(?<![\w.~}])/(?:home|root|Users|work|mnt|opt)/\w"),
    "a package registry": re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|/simple/"),
    "an address in a network": re.compile(r"\b(?!127\.|0\.0\.0\.0|1\.2\.3\.)(?:\d{1,3}\.){3}\d{1,3}\b"),
    "a mark of unfinished work": re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b"),
    "a conflict of git's": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}
ROOMS = ("src", "tests", "docs", "benchmarks", "examples", ".ci")
KINDS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".svg", ""}


def files() -> Iterator[Path]:
    """What git would keep: the project's text files."""
    yield from (path for path in TOP.iterdir() if path.is_file() and path.suffix in KINDS and path.name != ".git")
    for room in ROOMS:
        for path in (TOP / room).rglob("*"):
            if path.is_file() and path.suffix in KINDS and not {"__pycache__", ".venvs"} & set(path.parts):
                yield path


def test_words_of_older_eras_stand_only_in_compat():
    found = []
    for module in modules().values():
        if module.room == "compat":
            continue
        for number, line in enumerate(module.text.splitlines(), 1):
            for allowed in EXCEPT:
                line = line.replace(allowed, "")
            found += [f"{module.place}:{number} {match[0]!r}" for match in ONLY_IN_COMPAT.finditer(line)]
    none(found)


def test_words_that_may_stand_nowhere():
    found = []
    for path in files():
        if path in (Path(__file__), TOP / "LICENSE"):
            continue
        text = path.read_text()
        for what, pattern in NOWHERE.items():
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(TOP)}:{line} {what}: {match[0]!r}")
    none(found)


def test_names_say_what_a_thing_is():
    vague = re.compile(r"Connector|Manager|Helper|Util|Mixin|Handler|Impl(?=[A-Z_]|$)|^(?:info|tmp|misc)$")
    given = {"HyperparametersMixin"}  # a public name
    classes = {node.name for module in modules().values() for node in module.classes}
    none(name for name in classes - given if vague.search(name))
