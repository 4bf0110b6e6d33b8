"""`fulmen migrate FILE ...`: files, what is shown, what is written; the seeds under plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fulmen.tools.command import main
from fulmen.tools.migrate.rewrite import migrate

EXAMS = Path(__file__).parents[3] / "shared" / "exams"
OLD = "import pytorch_lightning as pl\ntrainer = pl.Trainer(gpus=0)\n"
NEW = 'import fulmen as pl\ntrainer = pl.Trainer(accelerator="cpu")\n'


def test_a_file_is_rewritten_and_the_difference_shown(capsys):
    Path("train.py").write_text(OLD)

    assert main(["migrate", "train.py"]) == 0

    assert Path("train.py").read_text() == NEW
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "--- train.py",
        "+++ train.py",
        "@@ -1,2 +1,2 @@",
        "-import pytorch_lightning as pl",
        "-trainer = pl.Trainer(gpus=0)",
        "+import fulmen as pl",
        '+trainer = pl.Trainer(accelerator="cpu")',
    ]
    assert said.err == "1 file changed.\n"


@pytest.mark.parametrize("option", ["--check", "--dry-run"])
def test_check_writes_nothing_and_its_status_says_whether_it_would(option, capsys):
    Path("train.py").write_text(OLD)

    assert main(["migrate", option, "train.py"]) == 1
    assert Path("train.py").read_text() == OLD
    assert "+import fulmen as pl" in capsys.readouterr().out
    Path("train.py").write_text(NEW)
    assert main(["migrate", option, "train.py"]) == 0
    assert capsys.readouterr().out == ""


def test_folders_are_searched_and_files_that_are_not_python_named(capsys):
    Path("project/deep").mkdir(parents=True)
    Path("project/deep/old.py").write_text(OLD)
    Path("project/other.py").write_text("import torch\n")
    Path("project/broken.py").write_text("import lightning as L\ndef broken(:\n")
    Path("project/notes.txt").write_text(OLD)

    assert main(["migrate", "project", "nowhere.py"]) == 1

    assert Path("project/deep/old.py").read_text() == NEW
    assert Path("project/notes.txt").read_text() == OLD
    said = capsys.readouterr().err
    assert "project/broken.py: this is not Python" in said
    assert "nowhere.py: " in said
    assert said.endswith("1 file changed.\n")


def test_what_is_left_is_told_with_its_line_and_the_way_to_run_it(capsys):
    Path("train.py").write_text(
        "from pytorch_lightning.callbacks import ModelCheckpoint\nModelCheckpoint(filepath=x)\n"
    )

    assert main(["migrate", "train.py"]) == 0

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("train.py:2: ModelCheckpoint(")
    assert "`fulmen run train.py`" in said[1]


def test_without_libcst_it_says_what_to_install():
    Path("libcst.py").write_text("raise ModuleNotFoundError('No module', name='libcst')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ["PYTHONPATH"]])}
    command = [sys.executable, "-m", "fulmen", "migrate", "x.py"]

    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert (done.returncode, done.stderr) == (1, "fulmen migrate needs libcst: pip install 'fulmen[migrate]'.\n")


VALUES = st.sampled_from(["0", "None", "1", "0.5", "True", "False", "'ddp'", "args.x", "[cb]", "2, **more"])
NAMES = st.sampled_from(
    ["gpus", "max_nb_epochs", "val_percent_check", "checkpoint_callback", "distributed_backend", "callbacks", "logger"]
)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([", ", ",\n    ", ",  # why\n    "]))
def test_whatever_the_trainer_gets_the_result_is_python_and_stays_as_it_is(arguments, between):
    call = between.join(f"{name}={value}" for name, value in arguments.items())
    source = f"import pytorch_lightning as pl\n\ntrainer = pl.Trainer(\n    {call}\n)\n".encode()

    new, _, _ = migrate(source)

    compile(new, "new.py", "exec")
    assert migrate(new)[0] == new


@pytest.mark.exam
@pytest.mark.skipif(not EXAMS.is_dir(), reason="needs the folder ../shared")
@pytest.mark.parametrize("number", ["000", "001", "002", "003", "004"])
def test_the_migrated_seeds_run_under_plain_python(number, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMS))
    import seed_data
    import seeds

    write_data = {"000": seed_data.write_mnist, "004": seed_data.write_cifar10}.get(number)
    if write_data is not None:
        write_data(Path.cwd())
    Path("seed.py").write_text(seeds.PROGRAMS[number]())
    assert main(["migrate", "seed.py"]) == 0
    assert main(["migrate", "--check", "seed.py"]) == 0
    paths = [str(EXAMS / "shim"), str(Path(sys.prefix) / "exams"), os.environ["PYTHONPATH"]]
    environment = {"WANDB_SILENT": "true", "SEED_EXAM_CIFAR_UNCHECKED": "1", "PYTHONPATH": os.pathsep.join(paths)}

    done = subprocess.run(
        [sys.executable, "seed.py"], env={**os.environ, **environment}, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr[-2000:]
