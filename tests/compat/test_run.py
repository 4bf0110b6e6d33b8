from __future__ import annotations

from pathlib import Path

import pytest
from compat.programs import command, lines, start

from fulmen import compat


def test_the_program_sees_what_python_would_show_it():
    said = lines(
        """
        import sys
        print(sys.argv)
        print(sys.path[0])
        print(__name__, __file__, __spec__)
        """,
        "--gpus", "0", "-h",
    )  # fmt: skip

    assert said == [
        "['program.py', '--gpus', '0', '-h']",
        str(Path.cwd()),
        f"__main__ {Path.cwd() / 'program.py'} None",
    ]


def test_the_exit_code_is_the_programs():
    assert start("raise SystemExit(3)").returncode == 3


def test_a_traceback_has_the_programs_frames_only():
    done = start("def broken():\n    raise KeyError('mine')\nbroken()\n")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'mine'"
    assert "fulmen" not in done.stderr


def test_a_missing_script_is_reported_as_python_does():
    done = command(["-m", "fulmen", "run", "nowhere.py"])

    assert done.returncode == 2
    assert "can't open file" in done.stderr


def test_without_a_script_the_usage_is_shown():
    done = command(["-m", "fulmen", "run"])

    assert done.returncode == 2
    assert "fulmen run SCRIPT" in done.stderr


def test_options_of_the_interpreter_are_kept():
    done = start("import sys; print(sys.flags.optimize, sys.warnoptions)", python=("-O", "-W", "ignore"))

    assert done.stdout.strip() == "1 ['ignore']"


def test_versions_are_answered_before_the_first_import():
    said = lines(
        """
        from importlib import metadata
        from importlib.util import find_spec
        print(metadata.version("pytorch-lightning"), find_spec("lightning") is not None)
        """
    )

    assert said == ["2.6.6 True"]


def test_a_module_runs_with_dash_m():
    Path("package").mkdir()
    Path("package/tool.py").write_text(
        "import sys, lightning as L\nprint(L.Callback.__module__, __name__, sys.argv[1:])"
    )

    done = command(["-m", "fulmen", "run", "-m", "package.tool", "a"])

    assert done.stdout.strip() == "fulmen.callbacks.base __main__ ['a']", done.stderr


def test_children_of_the_program_have_the_alias():
    said = lines(
        """
        import subprocess, sys
        child = "from importlib.util import find_spec; print('compat/roots' in find_spec('pytorch_lightning').origin)"
        print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip())
        """
    )

    assert said == ["True"]


SPAWNED = """
    import multiprocessing, pickle
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, Dataset

    class Model(pl.LightningModule):
        pass

    class Rows(Dataset):
        def __len__(self):
            return 4
        def __getitem__(self, index):
            import lightning.pytorch
            return float(issubclass(Model, lightning.pytorch.LightningModule))

    def child(queue):
        queue.put((type(Model()).__mro__[1].__module__, pl.__version__))

    if __name__ == "__main__":
        assert isinstance(pickle.loads(pickle.dumps(Model())), Model)
        context = multiprocessing.get_context("{method}")
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(*queue.get())
        process.join()
        print(sum(DataLoader(Rows(), num_workers=1, multiprocessing_context="{method}")).item())
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.slow
def test_spawned_processes_and_loader_workers_have_the_alias(method):
    assert lines(SPAWNED.replace("{method}", method)) == ["fulmen.module 2.6.6", "4.0"]


SHOWN = "from importlib.util import find_spec\nprint('compat/roots' in find_spec('pytorch_lightning').origin)\n"
"""Who would load it, without the seconds that torch takes."""


def test_the_alias_wins_over_an_installed_package(tmp_path):
    site = tmp_path / "site"
    (site / "pytorch_lightning").mkdir(parents=True)
    (site / "pytorch_lightning" / "__init__.py").write_text("raise RuntimeError('the installed one')")

    said = lines(SHOWN, PYTHONPATH=f"{site}:{_source()}")

    assert said == ["True"]


def _source() -> str:
    return str(Path(compat.__file__).parents[2])


@pytest.mark.slow
def test_pytest_gets_the_alias_from_the_plugin():
    Path("test_old.py").write_text(
        "from pytorch_lightning.core.lightning import LightningModule\n"
        "def test_alias():\n    assert LightningModule.__module__ == 'fulmen.module'\n"
    )

    done = command(["-m", "pytest", "-q", "-p", "fulmen.compat.pytest", "-p", "no:cacheprovider", "test_old.py"])

    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_program_may_install_the_alias_itself():
    Path("own.py").write_text(
        "import fulmen.compat\nfulmen.compat.install()\nfrom importlib.util import find_spec\n"
        "print(find_spec('pytorch_lightning').loader.__module__)\n"
    )

    assert command(["own.py"]).stdout.strip() == "fulmen.compat.finder"


def test_a_notebook_loads_the_extension():
    compat.load_ipython_extension(None)

    from lightning.pytorch.callbacks import Callback

    assert Callback.__module__ == "fulmen.callbacks.base"


@pytest.mark.slow
def test_ranks_of_a_distributed_run_have_the_alias():
    said = lines(
        """
        import os
        import pytorch_lightning as pl
        from pytorch_lightning.demos.boring_classes import BoringModel
        trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_steps=2, logger=False,
                             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(BoringModel())
        print(f"{trainer.global_rank} of {trainer.world_size}: {trainer.global_step}", flush=True)
        """
    )

    assert sorted(line for line in said if " of 2: " in line) == ["0 of 2: 2", "1 of 2: 2"]
