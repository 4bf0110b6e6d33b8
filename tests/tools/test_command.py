"""The `fulmen` command, as a process and as a function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fulmen
from fulmen.checkpoint import files
from fulmen.tools.command import main


def fulmen_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fulmen", *words], capture_output=True, text=True)


def test_python_m_fulmen_is_the_command():
    done = fulmen_command("--version")
    assert (done.returncode, done.stdout) == (0, f"fulmen {fulmen.__version__}\n")


def test_without_a_word_it_lists_the_commands(capsys):
    assert main([]) == 2
    said = capsys.readouterr().out
    assert all(word in said for word in ("demo", "run", "migrate", "replay", "checkpoint"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["dmeo"],
            "fulmen: there is no 'dmeo'. Did you mean 'demo'? There are: demo, run, migrate, replay, checkpoint.\n",
        ),
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


def test_checkpoint_verify_tells_the_whole_from_the_torn(capsys):
    files.write({"epoch": 3, "state_dict": {"weight": torch.ones(2000)}}, "whole.ckpt")
    content = bytearray(Path("whole.ckpt").read_bytes())
    content[content.index(torch.ones(2000).numpy().tobytes()) + 7] ^= 1
    Path("torn.ckpt").write_bytes(content)

    assert main(["checkpoint", "verify", "whole.ckpt", "torn.ckpt"]) == 1
    said = capsys.readouterr()
    assert said.out == "whole.ckpt: good\n"
    assert "torn.ckpt" in said.err
    assert main(["checkpoint", "verify", "whole.ckpt"]) == 0


def test_checkpoint_show_and_diff_print_what_is_there(capsys):
    files.write({"epoch": 3, "state_dict": {"weight": torch.ones(2)}}, "a.ckpt")
    files.write({"epoch": 4, "state_dict": {"weight": torch.ones(2)}}, "b.ckpt")

    assert main(["checkpoint", "show", "a.ckpt", "b.ckpt"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("a.ckpt", "b.ckpt", "epoch 3", "epoch 4", "weight"))
    assert main(["checkpoint", "diff", "a.ckpt", "b.ckpt"]) == 1
    assert "epoch" in capsys.readouterr().out
    assert main(["checkpoint", "diff", "a.ckpt", "a.ckpt"]) == 0


def test_a_checkpoint_that_is_not_there_is_one_sentence(capsys):
    assert main(["checkpoint", "show", "nowhere.ckpt"]) == 1
    said = capsys.readouterr().err
    assert "nowhere.ckpt" in said
    assert "Traceback" not in said
