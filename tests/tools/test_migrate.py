"""`fulmen migrate`: what is rewritten, what is left and told, and that nothing else changes."""

from __future__ import annotations

from textwrap import dedent

import pytest

from fulmen.tools.migrate.rewrite import migrate


def after(text: str) -> tuple[str, list[str]]:
    """The text migrated, and what is said; a second time changes nothing."""
    new, notes, _ = migrate(dedent(text).encode())
    again, _, _ = migrate(new)
    assert again == new
    return new.decode(), [f"{line}: {sentence}" for line, sentence in notes]


def rewritten(before: str, expected: str) -> None:
    """`before` becomes `expected`, without a word."""
    assert after(before) == (dedent(expected), [])


def body(text: str) -> str:
    """The lines behind the imports."""
    return after(text)[0].split("\n\n", 1)[1]


# ---- imports


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("import pytorch_lightning as pl", "import fulmen as pl"),
        ("import lightning as L", "import fulmen as L"),
        ("import os, lightning.pytorch as pl  # both", "import os, fulmen as pl  # both"),
        ("import pytorch_lightning\npytorch_lightning.Trainer()", "import fulmen\nfulmen.Trainer()"),
        ("from lightning import pytorch as pl", "import fulmen as pl"),
        ("from pytorch_lightning import Trainer, LightningModule", "from fulmen import Trainer, LightningModule"),
        ("from pytorch_lightning import loggers as pl_loggers", "from fulmen import loggers as pl_loggers"),
        ("import pytorch_lightning.callbacks as cb\ncb.Timer()", "import fulmen.callbacks as cb\ncb.Timer()"),
        ("from pytorch_lightning.core.lightning import LightningModule", "from fulmen import LightningModule"),
        (
            "from pytorch_lightning.loggers.base import (\n    DummyLogger,  # idle\n    LightningLoggerBase,\n)",
            "from fulmen.loggers import (\n    DummyLogger,  # idle\n    Logger as LightningLoggerBase,\n)",
        ),
        (
            "from pytorch_lightning.utilities import rank_zero_only, AttributeDict as A  # two\n",
            "from fulmen.warn import rank_zero_only\nfrom fulmen.checkpoint.hparams import AttributeDict as A  # two\n",
        ),
        (
            "import pytorch_lightning as pl\npl.callbacks.lr_logger.LearningRateLogger(), pl.utilities.seed.reset_seed",
            "import fulmen as pl\npl.callbacks.LearningRateMonitor(), pl.seed.reset_seed",
        ),
        (
            "from pytorch_lightning.metrics import MeanSquaredError, Metric",
            "from torchmetrics import MeanSquaredError, Metric",
        ),
        (
            "import logging\nimport lightning as L\nlogging.getLogger('lightning.pytorch')",
            "import logging\nimport fulmen as L\nlogging.getLogger('fulmen')",
        ),
    ],
)
def test_imports_become_todays(before, expected):
    rewritten(before, expected)


def test_what_fulmen_lacks_keeps_its_import_and_is_named_with_its_line():
    new, notes = after("import torch\nfrom pytorch_lightning.callbacks import Timer, NoSuchThing\n")

    assert (
        new == "import torch\nfrom fulmen.callbacks import Timer\nfrom pytorch_lightning.callbacks import NoSuchThing\n"
    )
    assert len(notes) == 1
    assert notes[0].startswith("2: NoSuchThing ")


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("from pytorch_lightning.metrics import Accuracy\n", "from fulmen.compat.metrics import Accuracy\n"),
        (
            "import pytorch_lightning as pl\npl.metrics.Accuracy()\n",
            "import fulmen.compat.metrics\nimport fulmen as pl\nfulmen.compat.metrics.Accuracy()\n",
        ),
    ],
)
def test_what_only_compat_has_comes_from_there_and_is_told(before, expected):
    new, notes = after(before)

    assert new == expected
    assert "fulmen.compat.metrics" in notes[0]


def test_a_program_of_today_only_has_its_imports_changed():
    text = """\
    # -*- coding: utf-8 -*-
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger


    class Net( pl.LightningModule ):   # spaces stay
        def __init__(self, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.outputs = []

    \tdef training_step(self, batch, batch_idx): return {"loss": self(batch).mean(), "preds": 1}

        def on_validation_epoch_end(self):
            self.log_dict({'a' : 1.0}, prog_bar = True)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            pass

    trainer = pl.Trainer( accelerator='gpu', devices = [0], strategy="ddp", precision='16-mixed',
                          callbacks=[pl.callbacks.ModelCheckpoint(monitor='a', every_n_epochs=1)])
    trainer.fit(Net({}), train_dataloaders=None, ckpt_path='last')
    """.replace("\t", "    ")

    new, notes = after(text)

    changed = [line for line in new.splitlines() if line not in dedent(text).splitlines()]
    assert changed == ["import fulmen as pl", "from fulmen.loggers import CSVLogger"]
    assert len(new.splitlines()) == len(dedent(text).splitlines())
    assert notes == []


def test_a_file_without_either_framework_is_left_alone():
    assert migrate(b"def broken(:\n") == (b"def broken(:\n", [], False)


def test_line_ends_and_encoding_are_kept():
    source = "# -*- coding: latin-1 -*-\r\nimport lightning as L\r\nname = '\xe9'\r\n".encode("latin-1")

    assert migrate(source)[0] == source.replace(b"lightning", b"fulmen")


# ---- the Trainer


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("gpus=0", 'accelerator="cpu"'),
        ("gpus=None", 'accelerator="cpu"'),
        ("gpus=2", 'accelerator="gpu", devices=2'),
        ("gpus='0,1'", 'accelerator="gpu", devices=[0, 1]'),
        ("gpus=-1, distributed_backend='ddp'", 'accelerator="gpu", strategy="ddp", devices=-1'),
        ("gpus=2, accelerator='ddp'", 'accelerator="gpu", strategy="ddp", devices=2'),
        ("max_nb_epochs=args.n, row_log_interval=5", "max_epochs=args.n, log_every_n_steps=5"),
        ("val_percent_check=0.5", "limit_val_batches=0.5"),
        ("overfit_pct=0.1", "limit_test_batches=0.1, overfit_batches=0.1"),
        ("checkpoint_callback=False, logger=None", "enable_checkpointing=False, logger=None"),
        ("checkpoint_callback=ModelCheckpoint('a')", "callbacks=[ModelCheckpoint('a')]"),
        ("early_stop_callback=True", 'callbacks=[pl.callbacks.EarlyStopping("val_loss", patience=3, verbose=True)]'),
        ("callbacks=[a], weights_summary='full'", "callbacks=[a, pl.callbacks.ModelSummary(max_depth=-1)]"),
        ("weights_summary='top', amp_level='O2', tpu_cores=None", ""),
        ("weights_summary=None", "enable_model_summary=False"),
        ("progress_bar_refresh_rate=0", "enable_progress_bar=False"),
        ("progress_bar_refresh_rate=20", "callbacks=[pl.callbacks.TQDMProgressBar(refresh_rate=20)]"),
        ("accumulate_grad_batches={4: 2}", "callbacks=[pl.callbacks.GradientAccumulationScheduler({4: 2})]"),
        ("plugins=DDPPlugin(find_unused_parameters=False)", "strategy=DDPPlugin(find_unused_parameters=False)"),
        ("replace_sampler_ddp=False, **more", "use_distributed_sampler=False, **more"),
        ("\n    gpus=0,  # none\n    max_epochs=3,\n", '\n    accelerator="cpu",  # none\n    max_epochs=3,\n'),
    ],
)
def test_arguments_of_the_trainer_become_todays(before, expected):
    head = "import pytorch_lightning as pl\nfrom pytorch_lightning.callbacks import ModelCheckpoint\n"
    head += "from pytorch_lightning.plugins import DDPPlugin\n"

    new, notes = after(f"{head}pl.Trainer({before})\n")

    assert new.partition("pl.Trainer")[2] == f"({expected})\n"
    assert notes == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpus=args.gpus", 'accelerator="gpu" if args.gpus else "cpu"'),
        ("val_percent_check=args.part", "depends on its value"),
        ("checkpoint_callback=args.save", "depends on its value"),
        ("track_grad_norm=2", "grad_norm"),
        ("terminate_on_nan=flag", "depends on its value"),
        ("resume_from_checkpoint='a.ckpt'", "trainer.fit(ckpt_path=...)"),
        ("gpus=2, distributed_backend='dp'", "one process"),
        ("auto_lr_find=True", "the tuner"),
    ],
)
def test_arguments_that_cannot_be_decided_stay_and_are_told(given, said):
    new, notes = after(f"from pytorch_lightning import Trainer\n\nTrainer({given})\n")

    assert new == f"from fulmen import Trainer\n\nTrainer({given})\n"
    assert len(notes) == 1
    assert notes[0].startswith("3: Trainer(")
    assert said in notes[0]


def test_gpus_from_the_command_line_are_sure_if_they_are_a_number():
    new, notes = after(
        """
        from pytorch_lightning import Trainer
        parser.add_argument("--gpus", default=1, type=int)

        Trainer(gpus=args.gpus)
        """
    )

    assert 'Trainer(accelerator="gpu" if args.gpus else "cpu", devices=args.gpus or "auto")' in new
    assert notes == []


def test_callbacks_that_are_needed_are_imported():
    rewritten(
        '''
        """On fulmen."""
        from __future__ import annotations
        import pytorch_lightning as pl

        pl.trainer.Trainer(weights_summary="full", progress_bar_refresh_rate=20)
        ''',
        '''
        """On fulmen."""
        from __future__ import annotations
        from fulmen.callbacks import ModelSummary
        from fulmen.callbacks import TQDMProgressBar
        import fulmen as pl

        pl.Trainer(callbacks=[TQDMProgressBar(refresh_rate=20), ModelSummary(max_depth=-1)])
        ''',
    )


def test_the_checkpoint_to_resume_goes_to_the_calls_that_took_it():
    text = """
    import pytorch_lightning as pl

    trainer = pl.Trainer(resume_from_checkpoint=path)
    trainer.test(model)
    trainer.fit(model)
    trainer.test(model)
    """
    assert body(text) == dedent(
        """\
        trainer = pl.Trainer()
        trainer.test(model, ckpt_path=path)
        trainer.fit(model, ckpt_path=path)
        trainer.test(model)
        """
    )


def test_arguments_and_attributes_of_a_trainer_become_todays():
    rewritten(
        """
        from fulmen import Trainer

        t = Trainer()
        t.fit(model, train_dataloader=a, val_dataloaders=b)
        t.test(test_dataloaders=c)
        print(t.running_sanity_check, self.trainer.max_nb_epochs, t.get_model().x)
        """,
        """
        from fulmen import Trainer

        t = Trainer()
        t.fit(model, train_dataloaders=a, val_dataloaders=b)
        t.test(dataloaders=c)
        print(t.sanity_checking, self.trainer.max_epochs, t.lightning_module.x)
        """,
    )


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("ModelCheckpoint(period=2, monitor='a')", "ModelCheckpoint(every_n_epochs=2, monitor='a')"),
        ("ModelCheckpoint(filepath='x/{epoch}')", 'ModelCheckpoint(dirpath="x", filename="{epoch}")'),
        (
            "ModelCheckpoint(filepath=os.path.join(root, 'x', '{epoch}'))",
            "ModelCheckpoint(dirpath=os.path.join(root, 'x'), filename='{epoch}')",
        ),
        ("EarlyStopping(monitor='acc', mode='auto')", "EarlyStopping(monitor='acc', mode=\"max\")"),
        ("EarlyStopping(patience=2)", 'EarlyStopping(monitor="val_loss", patience=2)'),
    ],
)
def test_arguments_of_callbacks_become_todays(before, expected):
    head = "import os\nfrom fulmen.callbacks import ModelCheckpoint, EarlyStopping\n"

    rewritten(f"{head}{before}\n", f"{head}{expected}\n")


@pytest.mark.parametrize(
    "text",
    [
        "from pytorch_lightning.callbacks import LambdaCallback\n\nLambdaCallback(on_epoch_start=print)\n",
        "from pytorch_lightning.callbacks import ProgressBar\n\nclass Bar(ProgressBar):\n"
        "    def on_train_batch_end(self, *args):\n        print(self.train_batch_idx)\n",
    ],
)
def test_what_only_the_past_of_a_class_can_do_keeps_its_import(text):
    new, notes, mixed = migrate(text.encode())

    assert new.decode().splitlines()[0] == text.splitlines()[0]
    assert notes
    assert mixed


def test_where_a_callback_needs_the_old_class_its_import_stays():
    text = "from pytorch_lightning.callbacks import ModelCheckpoint, Timer\n\nModelCheckpoint(filepath=where)\n"

    new, notes, mixed = migrate(text.encode())

    assert new.decode().startswith("from fulmen.callbacks import Timer\nfrom pytorch_lightning.callbacks import Mod")
    assert [line for line, _ in notes] == [3]
    assert mixed


def test_the_hidden_state_is_not_logged():
    text = (
        "import pytorch_lightning as pl\n\nclass Net(pl.LightningModule):\n"
        "    def training_step(self, batch, batch_idx, hiddens):\n"
        "        return {'loss': batch, 'hiddens': hiddens, 'seen': batch, 'log': {'a': batch}}\n\n"
        "    def show(self):\n        print(self.trainer.callback_metrics)\n"
    )

    new = migrate(text.encode())[0].decode()

    assert "self.log('seen', batch" in new
    assert "self.log('hiddens'" not in new


def test_old_paths_in_a_text_of_yaml_are_pointed_out():
    text = (
        "import pytorch_lightning as pl\nCONFIG = '''\n  _target_: pytorch_lightning.callbacks.Timer\n"
        "  class_path: \"pytorch_lightning.loggers.CSVLogger\"\n'''\nSAID = 'see pytorch_lightning: it is old'\n"
    )

    assert [(line, said.split("'")[1]) for line, said in migrate(text.encode())[1]] == [
        (2, "pytorch_lightning.callbacks.Timer"), (2, "pytorch_lightning.loggers.CSVLogger"),
    ]  # fmt: skip


def test_a_counter_of_the_trainer_that_is_assigned_keeps_the_import():
    text = (
        "from pytorch_lightning import Trainer, seed_everything\n\nt = Trainer(max_epochs=4)\nt.current_epoch = 2\n"
        "t.global_step += 1\nprint(t.current_epoch)\n"
    )

    new, notes, mixed = migrate(text.encode())

    assert [line for line, _ in notes] == [4, 5]
    assert b"from fulmen import seed_everything\nfrom pytorch_lightning import Trainer" in new
    assert mixed


def test_classes_in_configurations_get_their_new_paths():
    text = (
        "import pytorch_lightning as pl\nA = {'_target_': 'pytorch_lightning.callbacks.Timer', 'duration': 1}\n"
        'B = {"class_path": "pytorch_lightning.loggers.csv_logs.CSVLogger"}\nC = "pytorch_lightning.Trainer"\n'
    )

    new, notes, mixed = migrate(text.encode())

    assert b"'_target_': 'fulmen.callbacks.Timer'" in new
    assert b'"class_path": "fulmen.loggers.CSVLogger"' in new
    assert [line for line, _ in notes] == [4]
    assert mixed


def test_an_import_of_everything_needs_the_alias():
    assert migrate(b"from pytorch_lightning.callbacks import *\n")[2]


def test_a_template_that_is_put_together_is_left():
    text = (
        "import os\nfrom pytorch_lightning.callbacks import ModelCheckpoint\n"
        'ModelCheckpoint(os.path.join("a", "{epoch}"), monitor="b")\nModelCheckpoint(os.path.join("a", "b"))\n'
    )

    new, notes, mixed = migrate(text.encode())

    assert (new, [line for line, _ in notes], mixed) == (text.encode(), [3], True)
