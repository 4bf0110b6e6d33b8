"""`fulmen migrate` on optimizers, hooks and what modules call on themselves."""

from __future__ import annotations

from textwrap import dedent

import pytest
from tools.test_migrate import after, rewritten
from tools.test_migrate_modules import HEAD, same

# ---- optimizers


GAN = """
class Gan(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 1)

    def training_step(self, batch, batch_idx, optimizer_idx):
        assert self.a.weight.requires_grad == (optimizer_idx == 0)  # only those whose turn it is
        loss = self.b(self.a(batch)).mean() * (1 if optimizer_idx == 0 else -1)
        self.log("seen", loss)
        RETURN

    def configure_optimizers(self):
        opt_a = torch.optim.Adam(self.a.parameters(), lr=0.1)
        return [opt_a, torch.optim.SGD(self.b.parameters(), lr=0.01)]MORE

    def train_dataloader(self):
        return DataLoader(X, batch_size=2)

model = Gan()
result = fit(model), [p.tolist() for p in model.parameters()]
"""


@pytest.mark.parametrize(
    ("returned", "more"), [("return loss", ""), ("return {'loss': loss, 'log': {'x': loss}}", ", []")]
)
def test_several_optimizers_become_manual_optimization(returned, more, monkeypatch):
    new = same(GAN.replace("RETURN", returned).replace("MORE", more), monkeypatch, said=1)

    assert "        self.automatic_optimization = False\n" in new
    assert "self.manual_backward(loss)" in new


@pytest.mark.parametrize(
    "change", ["    def optimizer_step(self, *args): pass\n", "    gradient_clip = dict(max_steps=3)\n"]
)
def test_other_hooks_and_arguments_of_the_optimization_leave_it_as_it_is(change):
    text = HEAD + GAN.replace("RETURN", "return loss").replace("MORE", "").replace("\nmodel =", f"\n{change}\nmodel =")

    new, notes = after(text)

    assert new == text
    assert any("optimizer_idx and is left" in note for note in notes)


def test_a_plateau_scheduler_says_what_it_watches():
    new, notes = after(
        """
        import fulmen as pl
        class Net(pl.LightningModule):
            def configure_optimizers(self):
                plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
                return [optimizer], [plateau, lr_scheduler.StepLR(optimizer, 2)]
        """
    )
    assert 'return [optimizer], [{"scheduler": plateau, "monitor": "val_loss"}, lr_scheduler.StepLR' in new
    assert notes == []


@pytest.mark.parametrize(
    ("monitor", "today"), [("", ', "monitor": "val_loss"}]'), (", 'monitor': 'loss'", ", 'monitor': 'loss'}]")]
)
def test_a_dict_with_a_plateau_scheduler_gets_what_it_lacks(monitor, today):
    new, _ = after(
        f"""
        import fulmen as pl
        class Net(pl.LightningModule):
            def configure_optimizers(self):
                return [optimizer], [{{'scheduler': ReduceLROnPlateau(optimizer), 'frequency': 1{monitor}}}]
        """
    )
    assert f"ReduceLROnPlateau(optimizer), 'frequency': 1{today}" in new


def test_what_only_old_base_classes_have_keeps_their_import():
    new, notes = after(
        """
        from pytorch_lightning.loggers import LightningLoggerBase
        class Own(LightningLoggerBase):
            def log_hyperparams(self, params):
                self.params = self._convert_params(params)
        """
    )
    assert "from pytorch_lightning.loggers import LightningLoggerBase" in new
    assert "_convert_params() of loggers is left" in notes[0]


def test_a_hook_that_is_called_keeps_its_last_argument():
    new, _ = after(
        """
        import fulmen as pl
        class Count(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx): pass
        Count().on_train_batch_end(None, None, None, None, 0, 0)
        """
    )
    assert "batch, batch_idx, dataloader_idx=0): pass" in new


def test_tags_csv_is_hparams_file():
    new, _ = after("import fulmen as pl\nNet.load_from_checkpoint(path, tags_csv='tags.csv')\n")

    assert "Net.load_from_checkpoint(path, hparams_file='tags.csv')" in new


# ---- hooks and what modules call on themselves


def test_older_names_and_arguments_of_hooks_become_todays():
    rewritten(
        """
        from fulmen import Callback, LightningModule

        class Net(LightningModule):
            def __init__(self, hparams):
                super().__init__()
                self.hparams = hparams  # all

            def tng_dataloader(self): return 1

            def on_epoch_end(self): pass

            def on_batch_start(self, batch):
                pass

            def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu=False):
                self.manual_backward(loss, optimizer)
                optimizer.step(closure=optimizer_closure)

        class Told(Callback):
            def on_batch_end(self, trainer, pl_module):
                pass

            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx):
                print(dataloader_idx)

            def on_train_epoch_end(self, trainer, pl_module, outputs):
                pass
        """,
        """
        from fulmen import Callback, LightningModule

        class Net(LightningModule):
            def __init__(self, hparams):
                super().__init__()
                self.save_hyperparameters(hparams)  # all

            def train_dataloader(self): return 1

            def on_train_epoch_end(self): pass

            def on_train_batch_start(self, batch, batch_idx):
                pass

            def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure, on_tpu=False):
                self.manual_backward(loss)
                optimizer.step(closure=optimizer_closure)

        class Told(Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                pass

            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
                print(dataloader_idx)

            def on_train_epoch_end(self, trainer, pl_module):
                pass
        """,
    )


@pytest.mark.parametrize("asked", ["trainer.global_step", "trainer.current_epoch"])
def test_hooks_that_ask_for_the_global_step_are_left(asked):
    text = (
        HEAD
        + f"""
class Old(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
        print({asked})

class Older(pl.Callback):
    def on_batch_end(self, trainer, pl_module):
        print(1)
"""
    )

    new, notes = after(text)

    left = asked == "trainer.global_step"
    assert ("dataloader_idx" in new, "on_batch_end" in new) == (left, left)
    assert len([note for note in notes if "is left" in note]) == 2 * left


def test_decorators_of_loaders_go():
    rewritten(
        """
        import pytorch_lightning as pl
        from pytorch_lightning import data_loader

        class Net(pl.LightningModule):
            @pl.data_loader
            def train_dataloader(self):
                return 1

            @data_loader
            def val_dataloader(self):
                return 2
        """,
        """
        import fulmen as pl

        class Net(pl.LightningModule):
            def train_dataloader(self):
                return 1

            def val_dataloader(self):
                return 2
        """,
    )


def test_in_a_module_of_an_unknown_base_only_what_is_sure_is_rewritten():
    text = """\
    from ours import Base
    from fulmen import Trainer


    class Net(Base):
        def training_step(self, batch, batch_idx):
            return {"loss": 1, "log": {"a": 1}}

        def validation_epoch_end(self, outputs):
            pass
    """
    new, notes = after(text)

    assert new == dedent(text).replace(
        'return {"loss": 1, "log": {"a": 1}}', 'self.log("a", 1)\n        return {"loss": 1}'
    )
    assert len(notes) == 1
    assert "not all bases of the class are known" in notes[0]


def test_other_classes_are_left_alone():
    text = """\
    import fulmen as pl


    class Part(nn.Module):
        def __init__(self, hparams):
            self.hparams = hparams

        def on_epoch_end(self):
            return {"loss": 1, "log": {"a": 1}}
    """
    rewritten(text, text)


def test_what_only_an_old_base_class_has_keeps_its_import():
    new, notes = after(
        """
        from pytorch_lightning import LightningModule, Trainer

        class Net(LightningModule):
            def on_epoch_end(self):
                super().on_epoch_end()
        """
    )
    assert new.splitlines()[1:3] == ["from fulmen import Trainer", "from pytorch_lightning import LightningModule"]
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("body", "stays"),
    [
        ("state = super().on_save_checkpoint(*args)", True), ("super().on_save_checkpoint(*args)", False),
        ("self.manual_backward(loss, g)", True), ("self.manual_backward(loss, opt_g)", False),
    ],
)  # fmt: skip
def test_what_an_old_base_class_gave_or_took_keeps_its_import(body, stays):
    base = "LightningModule" if "loss" in body else "ModelCheckpoint"
    home = "pytorch_lightning" + ".callbacks" * (base == "ModelCheckpoint")
    new, _ = after(
        f"""
        from {home} import {base}
        class Own({base}):
            def on_save_checkpoint(self, *args):
                {body}
        """
    )
    assert (f"from {home} import {base}" in new) is stays


def test_the_import_stays_of_the_class_at_the_root():
    new, notes = after(
        """
        import pytorch_lightning as pl
        class Net(pl.LightningModule): pass
        class More(Net):
            def get_progress_bar_dict(self):
                return super().get_progress_bar_dict()
        class Data(pl.LightningDataModule): pass
        data = Data.from_argparse_args(args)
        print(data.size())
        """
    )
    assert "import pytorch_lightning as pl" in new
    assert any("super().get_progress_bar_dict(...) is left" in note for note in notes)
    assert any("data.size is left" in note for note in notes)


def test_what_a_callback_of_today_has_may_be_called():
    new, notes = after(
        """
        from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
        class Bar(TQDMProgressBar):
            def init_train_tqdm(self):
                return super().init_train_tqdm()
            def on_train_end(self, *args):
                super().on_train_end(*args)
                self.main_progress_bar.close()
        class Named(ModelCheckpoint):
            def format_checkpoint_name(self, *args, **kwargs):
                return super().format_checkpoint_name(*args, **kwargs)
        """
    )
    assert notes == []
    assert "from fulmen.callbacks import ModelCheckpoint, TQDMProgressBar" in new
    assert "self.train_progress_bar.close()" in new


def test_toggling_is_told_the_optimizer_only():
    new, notes = after("""
        import pytorch_lightning as pl

        class Two(pl.LightningModule):
            def training_step(self, batch, batch_idx):
                first, second = self.optimizers()
                self.toggle_optimizer(first, 0)
                self.untoggle_optimizer(0)
                self.toggle_optimizer(second, optimizer_idx=1)
                self.untoggle_optimizer(1)

        class Stops(pl.callbacks.EarlyStopping):
            def on_validation_end(self, trainer, pl_module):
                self._run_early_stopping_check(trainer, pl_module)
        """)

    assert [line.strip() for line in new.splitlines() if "toggle" in line] == [
        "self.toggle_optimizer(first)", "self.untoggle_optimizer(first)",
        "self.toggle_optimizer(second)", "self.untoggle_optimizer(second)",
    ]  # fmt: skip
    assert "self._run_early_stopping_check(trainer)" in new
    assert notes == []


def test_the_experiment_of_one_of_several_loggers():
    new, notes = after("""
        import pytorch_lightning as pl

        class Net(pl.LightningModule):
            def on_fit_start(self):
                self.logger.experiment[1].add_scalar("a", self.logger.experiment["b"], 0)
        """)

    assert 'self.loggers[1].experiment.add_scalar("a", self.logger.experiment["b"], 0)' in new
    assert notes == []
