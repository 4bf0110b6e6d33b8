"""The `fulmen` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from fulmen import __version__
from fulmen.errors import CheckpointError, MisconfigurationException, nearest


class Parser(argparse.ArgumentParser):
    """Names the nearest right word where argparse only lists them all."""

    def _check_value(self, action: argparse.Action, value: str) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            self.error(f"there is no {value!r}.{nearest(value, known)} There are: {', '.join(known)}.")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> Parser:
    """All that the command line understands; `call` is the function for the chosen command."""
    top = Parser(prog="fulmen", description="Trains PyTorch models.")
    top.add_argument("--version", action="version", version=f"fulmen {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="train a digit classifier in the current folder")
    demo.set_defaults(call=main_of("demo"))

    commands.add_parser("run", help="run a script that imports an older framework, unchanged, on Fulmen")

    migrate = commands.add_parser(
        "migrate",
        help="rewrite such a script to today's Fulmen",
        description="Rewrites scripts to today's Fulmen, in place, and shows the difference. What cannot be decided "
        "stays as it is and is named with its line; `fulmen run` still runs it.",
    )
    migrate.add_argument("paths", metavar="FILE", nargs="+", help="a Python file, or a folder of them")
    migrate.add_argument(
        "--check", "--dry-run", action="store_true", help="write nothing; the exit status is 1 if files would change"
    )
    migrate.set_defaults(call=main_of("migrate.files"))

    replay = commands.add_parser(
        "replay",
        help="run just the step that failed",
        description="Starts the program of a captured step (failed_step.replay, beside the checkpoints) once more, "
        "and runs only that step in its first fit, with torch's search for anomalies.",
    )
    replay.add_argument("path", metavar="FILE")
    replay.add_argument("program", metavar="SCRIPT", nargs=argparse.REMAINDER, help="in place of the one in the file")
    replay.add_argument("--trust", action="store_true", help="a batch of objects may run code while it is loaded")
    replay.set_defaults(call=main_of("replay"))

    checkpoint = commands.add_parser("checkpoint", help="look into checkpoint files")
    deeds = checkpoint.add_subparsers(metavar="show|verify|diff", required=True)
    for name, call, count, meaning in (
        ("show", show, "+", "what is in each file"),
        ("verify", verify, "+", "is each file whole and unaltered?"),
        ("diff", diff, 2, "in what do two files differ?"),
    ):
        deed = deeds.add_parser(name, help=meaning)
        deed.add_argument("files", metavar="FILE", nargs=count)
        deed.set_defaults(call=call)
    return top


def main_of(module: str) -> Callable[[argparse.Namespace], int]:
    """Calls `main` of a module of this folder, loaded then, with the arguments of the command."""

    def call(arguments: argparse.Namespace) -> int:
        given = {name: value for name, value in vars(arguments).items() if name != "call"}
        return import_module(f"fulmen.tools.{module}").main(**given)

    return call


def show(arguments: argparse.Namespace) -> int:
    from fulmen.tools import checkpoint

    for path in arguments.files:
        print(checkpoint.show(path))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from fulmen.tools import checkpoint

    bad = 0
    for path in arguments.files:
        try:
            checkpoint.verify(path)
            print(f"{path}: good")
        except CheckpointError as error:
            print(error, file=sys.stderr)
            bad = 1
    return bad


def diff(arguments: argparse.Namespace) -> int:
    from fulmen.tools import checkpoint

    difference = checkpoint.diff(*arguments.files)
    print(difference or "The two are equal.")
    return 1 if difference else 0


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the result is the exit status."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["run"]:  # everything after it belongs to the script
        from fulmen.compat import run

        return run.main(words[1:])
    if not words:
        parser().print_help()
        return 2
    arguments = parser().parse_args(words)
    try:
        return arguments.call(arguments)
    except (CheckpointError, MisconfigurationException) as error:
        print(error, file=sys.stderr)
        return 1
