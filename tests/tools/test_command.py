"""The `fulmen` command, as a process and as a function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fulmen
from fulmen.tools.command import main


def fulmen_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fulmen", *words], capture_output=True, text=True)


def test_python_m_fulmen_is_the_command():
    done = fulmen_command("--version")
    assert (done.returncode, done.stdout) == (0, f"fulmen {fulmen.__version__}\n")


def test_without_a_word_it_lists_the_commands(capsys):
    assert main([]) == 2
    said = capsys.readouterr().out
    assert all(word in said for word in ("demo", "run", "checkpoint"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmeo"], "fulmen: there is no 'dmeo'. Did you mean 'demo'? There are: demo, run, checkpoint.\n"),
        (["checkpoint", "shwo", "a.ckpt"], "Did you mean 'show'?"),
    ],
)
def test_an_unknown_word_is_named_with_the_nearest_right_one(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_run_gives_the_script_all_words_after_its_name():
    Path("script.py").write_text("import sys\nprint(__name__, sys.argv)\nsys.exit(3)\n")
    done = fulmen_command("run", "script.py", "--help", "-m", "x")
    assert done.stdout == "__main__ ['script.py', '--help', '-m', 'x']\n"
    assert done.returncode == 3
