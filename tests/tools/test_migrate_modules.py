"""`fulmen migrate` on what steps return and on the ends of epochs: the new program gives the same values."""

from __future__ import annotations

import sys
import types
import warnings
from textwrap import dedent
from typing import Any

import pytest
from tools.test_migrate import after

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader
import fulmen as pl

QUIET = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
             num_sanity_val_steps=0, accelerator="cpu")
X = torch.arange(16.0).reshape(8, 2)

class Base(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)

    def train_dataloader(self):
        return DataLoader(X, batch_size=2)

class Validated(Base):
    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def val_dataloader(self):
        return DataLoader(X, batch_size=4)

    test_dataloader = val_dataloader

def fit(model, epochs=2, **options):
    trainer = pl.Trainer(max_epochs=epochs, **{**QUIET, **options})
    trainer.fit(model)
    return {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
"""


def run(text: str, monkeypatch: pytest.MonkeyPatch, quiet: bool) -> Any:
    """What the program leaves as `result`; the old one may warn."""
    program = types.ModuleType("program")
    monkeypatch.setitem(sys.modules, "program", program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        warnings.filterwarnings("ignore", ".*returned None: its batch is skipped")
        exec(compile(text, "program.py", "exec"), vars(program))
    return vars(program)["result"]


def same(text: str, monkeypatch: pytest.MonkeyPatch, said: int = 0) -> str:
    """Migrate the program; check that it gives what it gave before, and say what is new in it."""
    before = HEAD + dedent(text)
    new, notes = after(before)
    assert len(notes) == said, notes
    assert run(new, monkeypatch, quiet=False) == run(before, monkeypatch, quiet=True)
    return "\n".join(line for line in new.splitlines() if line not in before.splitlines())


# ---- what steps return


@pytest.mark.parametrize(
    ("returned", "because"),
    [
        ('{"loss": x, "log": {name: x}, "progress_bar": {"a": x}}', "more than one part"),
        ('{"loss": x, "log": self.logs(), "monitored": x}', "more than one part"),
        ('{"loss": x, **more, "log": {"a": x}}', "plain strings"),
        ('{"loss": self.training_step(1), "log": {"a": x}}', "called by other code"),
        ('self.log("a", x) or {"loss": x, "log": {"a": x}}', ""),
    ],
)
def test_returned_values_that_are_not_sure_stay_and_are_told(returned, because):
    text = f"""\
    import fulmen as pl
    class Net(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            return {returned}
    pl.callbacks.EarlyStopping("monitored")
    """
    new, notes = after(text)

    assert new == dedent(text)
    assert [because in note for note in notes] == [True] * bool(because)


@pytest.mark.parametrize(
    ("returned", "lines"),
    [
        ('{"loss": loss, "log": {"a": loss}}', ['self.log("a", loss)']),
        ('{"loss": loss, "log": logs}', ["self.log_dict(logs)"]),
        ('{"loss": loss, "log": logs, "progress_bar": logs}', ["self.log_dict(logs, prog_bar=True)"]),
        (
            '{"loss": loss, "log": logs, "progress_bar": {"p": loss}}',
            ["self.log_dict(logs)", 'self.log("p", loss, prog_bar=True, logger=False)'],
        ),
        (
            '{"loss": loss, "log": logs, "progress_bar": {"a": loss, "p": loss}}',
            [
                'self.log("a", logs["a"], prog_bar=True)',
                'self.log("b", logs["b"])',
                'self.log("p", loss, prog_bar=True, logger=False)',
            ],
        ),
    ],
)
def test_parts_of_the_dict_go_to_loggers_and_bar_as_they_did(returned, lines, monkeypatch):
    new = same(
        f"""
        class Net(Base):
            def training_step(self, batch, batch_idx):
                loss = self.layer(batch).mean()
                logs = {{"a": loss, "b": 2 * loss}}
                return {returned}

        model = Net()
        result = fit(model), sorted(model.trainer.progress_bar_metrics), sorted(model.trainer.logged_metrics)
        """,
        monkeypatch,
    )
    expected = ['self.log("loss", loss, logger=False)', *lines, 'return {"loss": loss}']
    assert [line.strip() for line in new.splitlines()] == expected


def test_a_loss_that_nothing_asks_for_by_name_is_not_logged():
    new, _ = after(
        """
        import fulmen as pl
        class Net(pl.LightningModule):
            def training_step(self, batch, batch_idx):
                output = dict({
                    'loss': self(batch),  # the loss
                    'log': self.logs,
                })
                return output
        """
    )
    assert new.endswith(
        "        self.log_dict(self.logs)\n"
        "        output = dict({\n"
        "            'loss': self(batch),  # the loss\n"
        "        })\n"
        "        return output\n"
    )


# ---- the ends of epochs


def test_the_end_of_validation_takes_outputs_from_a_list(monkeypatch):
    new = same(
        """
        class Net(Validated):
            def validation_step(self, batch, batch_idx):
                return {"val_loss": self.layer(batch).mean(), "n": len(batch)}

            # at the end
            def validation_epoch_end(self, outputs):
                '''The mean.'''
                if not outputs:
                    return {}
                loss = torch.stack([x["val_loss"] for x in outputs]).mean()
                return {"mean": loss, "log": {"logged": loss + 1}, "names": ["a"], "n": sum(x["n"] for x in outputs)}

            def test_step(self, batch, batch_idx):
                return self.validation_step(batch, batch_idx)

            def test_end(self, outputs):
                result = {"progress_bar": {"count": float(len(outputs))}}
                return result

        model = Net()
        result = fit(model), sorted(model.trainer.logged_metrics)
        result += (model.trainer.test(model, verbose=False), model.trainer.progress_bar_metrics)
        """,
        monkeypatch,
    )
    assert new == (
        "    def on_validation_epoch_start(self):\n"
        "        self.validation_step_outputs = []\n"
        "    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):\n"
        "        self.validation_step_outputs.append(outputs)\n"
        "    def on_validation_epoch_end(self):\n"
        "        outputs, self.validation_step_outputs = self.validation_step_outputs, []\n"
        "            return\n"
        '        self.log("mean", loss, logger=False)\n'
        '        self.log("n", sum(x["n"] for x in outputs), logger=False)\n'
        '        self.log("logged", loss + 1)\n'
        "    def on_test_epoch_start(self):\n"
        "        self.test_step_outputs = []\n"
        "    def on_test_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):\n"
        "        self.test_step_outputs.append(outputs)\n"
        "    def on_test_epoch_end(self):\n"
        "        outputs, self.test_step_outputs = self.test_step_outputs, []\n"
        '        self.log("count", float(len(outputs)), prog_bar=True, logger=False)'
    )


def test_the_end_of_training_has_whole_losses_under_accumulation(monkeypatch):
    new = same(
        """
        class Net(Base):
            def training_step(self, batch, batch_idx):
                if batch_idx:
                    return self.layer(batch).mean()

            def training_epoch_end(self, outputs):
                self.log("mean", torch.stack([x["loss"] for x in outputs]).mean())

            def on_train_epoch_start(self):
                '''Starts.'''
                self.started = True

        result = fit(Net(), accumulate_grad_batches=2)
        """,
        monkeypatch,
    )
    assert 'outputs["loss"] * self.trainer.accumulate_grad_batches' in new
    assert "if outputs:" in new
    assert new.endswith("\n        self.training_step_outputs = []")  # in the hook that was there


def test_the_line_goes_into_a_hook_that_gets_todays_name_too(monkeypatch):
    new = same(
        """
        class Net(Base):
            def training_step(self, batch, batch_idx):
                return self.layer(batch).mean()

            def training_epoch_end(self, outputs):
                self.log("mean", torch.stack([x["loss"] for x in outputs]).mean() + self.started)

            def on_epoch_start(self):
                self.started = self.current_epoch

        result = fit(Net())
        """,
        monkeypatch,
    )
    assert new.count("def on_train_epoch_start(self):") == 1


def test_an_end_that_does_not_read_its_outputs_only_changes_its_name(monkeypatch):
    new = same(
        """
        class Net(Base):
            def training_step(self, batch, batch_idx):
                return self.layer(batch).mean()

            def training_epoch_end(self, outs) -> None:
                self.log("one", 1.0)

        result = fit(Net())
        """,
        monkeypatch,
    )
    assert new == "    def on_train_epoch_end(self):"


@pytest.mark.parametrize(
    ("step", "end", "because"),
    [
        ("def validation_step(self, batch, batch_idx, dataloader_idx): return 1", "print(outputs)", "several loaders"),
        ("def validation_step(self, batch, batch_idx): return 1", "return self.mean(outputs)", "written out"),
        ("def validation_step(self, batch, batch_idx): return 1", "self.log('a', 1); return {'a': 1}", "self.log"),
        ("def on_validation_epoch_end(self): pass", "pass", "on_validation_epoch_end"),
        ("def test_end(self, outputs): return self.validation_epoch_end(outputs)", "pass", "called by other code"),
        ("pass", "print(outputs)", "not in the file"),
    ],
)
def test_an_end_that_is_not_sure_stays_and_is_told(step, end, because):
    text = f"""\
    import fulmen as pl


    class Net(pl.LightningModule):
        {step}

        def validation_epoch_end(self, outputs):
            {end}
    """
    new, notes = after(text)

    assert new == dedent(text)
    assert any("Net.validation_epoch_end is left" in note and because in note for note in notes)


def test_checkpoints_watch_the_validation_loss_that_was_returned(monkeypatch):
    new = same(
        """
        from fulmen.callbacks import ModelCheckpoint

        class Net(Validated):
            def validation_step(self, batch, batch_idx):
                return 0

            def validation_end(self, outputs):
                return {"val_loss": float(self.current_epoch)}

        checkpoint = ModelCheckpoint("saved", filename="{epoch}")
        fit(Net(), enable_checkpointing=True, callbacks=[checkpoint])
        result = float(checkpoint.best_model_score)
        """,
        monkeypatch,
    )
    assert 'ModelCheckpoint("saved", filename="{epoch}", monitor="val_loss")' in new
