"""The bar of rich, drawn into a file that says it is a terminal, and once in a real one."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from callbacks.small import Scored, fit

from fulmen.callbacks import RichProgressBar
from fulmen.callbacks.progress import RichProgressBarTheme


class Shown(Scored):
    def training_step(self, batch, batch_idx):
        self.log("shown", 0.25, prog_bar=True)
        return super().training_step(batch, batch_idx)


def screen() -> dict:
    return {"file": io.StringIO(), "force_terminal": True, "width": 120, "legacy_windows": False}


def drawn(text: str) -> list[str]:
    """The lines, without colours, bars and times."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[━╸╺]", "", text)
    lines = [
        re.sub(r" +", " ", re.sub(r"[\d:-]+ • \S+ \S+it/s", "T", line)).strip() for line in re.split(r"[\r\n]", plain)
    ]
    return [line for line in lines if line]


def test_a_line_for_each_stage():
    console, model = screen(), Shown([1.0] * 9)
    trainer = fit(
        model, RichProgressBar(console_kwargs=console), max_epochs=2, num_sanity_val_steps=1, enable_progress_bar=True
    )
    trainer.test(model, verbose=False)
    said = drawn(console["file"].getvalue())

    assert said[0] == "Sanity Checking 0/1 T"
    assert "Epoch 1/1 4/4 T shown: 0.250" in said
    assert said[-1] == "Testing 4/4 T"


def test_the_validation_line_goes_when_it_is_over():
    seen = []

    class Looks(RichProgressBar):
        def on_validation_end(self, trainer, pl_module):
            seen.append((self.val_progress_bar.total, len(self.progress.tasks)))
            super().on_validation_end(trainer, pl_module)
            seen.append((self.train_progress_bar.description, len(self.progress.tasks)))

    bar = Looks(console_kwargs=screen())
    fit(Shown([1.0] * 9), bar, max_epochs=1, enable_progress_bar=True)

    assert seen == [(4, 2), ("Epoch 0/0", 1)]
    assert bar.progress is None


def test_columns_and_theme_can_be_chosen():
    from rich.progress import TextColumn

    class Mine(RichProgressBar):
        def configure_columns(self, trainer):
            return [TextColumn("before"), *super().configure_columns(trainer)[-1:]]

    console = screen()
    theme = RichProgressBarTheme(metrics="green", metrics_format=".1e", metrics_text_delimiter="|")
    model = Shown([1.0] * 9)
    model.on_train_batch_start = lambda batch, batch_idx: model.log("other", 1.0, prog_bar=True)
    fit(model, Mine(theme=theme, console_kwargs=console), max_epochs=1, enable_progress_bar=True)

    assert drawn(console["file"].getvalue())[-1] in (
        "before shown: 2.5e-01|other: 1.0e+00",
        "before other: 1.0e+00|shown: 2.5e-01",
    )


def test_leave_keeps_the_line_of_each_epoch():
    kept = screen()
    fit(Shown([1.0] * 9), RichProgressBar(leave=True, console_kwargs=kept), max_epochs=2, enable_progress_bar=True)

    said = kept["file"].getvalue()
    assert "4/4" in said.split("Epoch 1/1")[0].rstrip().split("\n")[-2]


def test_unknown_length():
    console, model = screen(), Shown([1.0] * 9)
    model.train_dataloader = lambda: iter(list(model.loader()))
    fit(model, RichProgressBar(console_kwargs=console), max_epochs=1, limit_val_batches=0, enable_progress_bar=True)

    assert drawn(console["file"].getvalue())[-1] == "Epoch 0/0 4/-- T shown: 0.250"


def test_rate_zero_is_off():
    console = screen()
    fit(
        Shown([1.0] * 9),
        RichProgressBar(refresh_rate=0, console_kwargs=console),
        max_epochs=1,
        enable_progress_bar=True,
    )

    assert console["file"].getvalue() == ""


def test_the_rate_is_redraws_in_a_second():
    assert RichProgressBar(refresh_rate=2).pause_s == 0.5
    assert RichProgressBar().pause_s == 0.1
    assert RichProgressBar().refresh_rate == 100


def test_an_exception_gives_the_screen_back():
    class Fails(Shown):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("no")

    console, output = screen(), sys.stdout
    with pytest.raises(RuntimeError, match="no"):
        fit(Fails([1.0]), RichProgressBar(console_kwargs=console), max_epochs=1, enable_progress_bar=True)

    assert sys.stdout is output
    assert console["file"].getvalue().endswith("\x1b[?25h")  # the cursor is back


PROGRAM = """
import fulmen as L
from fulmen.demos import BoringModel

class Prints(BoringModel):
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            print("by print")
            self.print("by the module")
        return super().training_step(batch, batch_idx)

L.Trainer(max_epochs=1, limit_train_batches=5, limit_val_batches=1, accelerator="cpu", logger=False,
          enable_checkpointing=False, enable_model_summary=False).fit(Prints())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_gets_this_bar_and_prints_stand_above_it():
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    lines = drawn(said.decode())

    assert process.wait() == 0
    assert {"by print", "by the module"} <= set(lines)
    assert lines[-1] == "Epoch 0/0 5/5 T"


@pytest.mark.slow
def test_a_pipe_gets_plain_lines_and_rich_is_not_imported():
    program = PROGRAM + "\nimport sys; assert 'rich' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"by print\nby the module\nEpoch 0: 5 of 5 batches in \d+\.\d s\n", done.stdout)
