"""Modules of other days: what their steps and epoch ends return reaches everything that reads values."""

from __future__ import annotations

import warnings
from argparse import Namespace

import pytest
import torch
from small import Net, Rows, Validated, make_trainer, numbers

from fulmen.callbacks import Callback, EarlyStopping, ModelCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fit(module, batches=4, **options):
    trainer = make_trainer(**options)
    trainer.fit(module, numbers(batches), numbers(3))
    return trainer


def values(metrics):
    return {name: value.item() for name, value in metrics.items()}


class Dicts(Net):
    """Everything is returned, nothing logged. The losses are 0, 2, 4, 6 in training and 0, 2, 4 in validation."""

    def training_step(self, batch, batch_idx):
        loss = self(batch).mean()
        return {"loss": loss, "log": {"train_loss": loss}, "progress_bar": {"seen": batch_idx}, "double": 2 * loss}

    def validation_step(self, batch, batch_idx):
        return {"val_loss": self(batch).mean()}

    def validation_epoch_end(self, outputs):
        loss = torch.stack([x["val_loss"] for x in outputs]).mean()
        return {"val_loss": loss, "log": {"logged": loss + 1}, "progress_bar": {"shown": loss + 2}, "names": ["a"]}


class Kept(Validated):
    """Keeps what its epoch ends are given."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def training_epoch_end(self, outputs):
        self.kept["train"] = outputs

    def validation_epoch_end(self, outputs):
        self.kept["validation"] = outputs

    def test_epoch_end(self, outputs):
        self.kept["test"] = outputs

    def predict_epoch_end(self, outputs):
        self.kept["predict"] = outputs


# ---- returned dicts


def test_a_training_steps_extras_reach_loggers_bar_and_callbacks():
    rows = Rows()

    trainer = fit(Dicts(), logger=rows, log_every_n_steps=2, limit_val_batches=0)

    assert rows.rows == [(1, {"train_loss": 2.0, "epoch": 0}), (3, {"train_loss": 6.0, "epoch": 0})]
    assert trainer.progress_bar_metrics == {"seen": 3.0}
    assert values(trainer.callback_metrics) == {"train_loss": 6.0, "seen": 3.0, "double": 12.0, "loss": 6.0}


def test_what_validation_epoch_end_returns_reaches_loggers_bar_and_callbacks():
    rows = Rows()

    trainer = fit(Dicts(), logger=rows, log_every_n_steps=1)

    assert (3, {"logged": 3.0, "epoch": 0}) in rows.rows
    assert trainer.progress_bar_metrics["shown"] == 4.0
    metrics = values(trainer.callback_metrics)
    assert {name: metrics[name] for name in ("val_loss", "logged", "shown")} == {
        "val_loss": 2.0, "logged": 3.0, "shown": 4.0,
    }  # fmt: skip


def test_what_training_epoch_end_returns_is_logged_once_an_epoch():
    class Ended(Net):
        def training_epoch_end(self, outputs):
            return {"log": {"mean": torch.stack([x["loss"] for x in outputs]).mean()}}

    rows = Rows()
    fit(Ended(), logger=rows, max_epochs=2, log_every_n_steps=1)

    assert rows.rows == [(3, {"mean": 3.0, "epoch": 0}), (7, {"mean": 3.0, "epoch": 1})]


def test_checkpoints_early_stopping_and_plateau_follow_a_returned_value(tmp_path):
    class Worse(Validated):
        def validation_end(self, outputs):
            return {"val_loss": float(self.current_epoch)}

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            return [optimizer], [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)]

    checkpoint = ModelCheckpoint(tmp_path, monitor="val_loss", filename="{epoch}")
    callbacks = [checkpoint, EarlyStopping("val_loss", patience=2)]
    trainer = fit(Worse(), max_epochs=9, enable_checkpointing=True, callbacks=callbacks)

    assert checkpoint.best_model_path.endswith("epoch=0.ckpt")
    assert trainer.current_epoch == 3
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_values_of_a_test_are_returned_by_trainer_test():
    class Tested(Validated):
        def test_end(self, outputs):
            return {"test_loss": torch.stack(outputs).mean(), "log": {"more": 1.5}}

    assert make_trainer().test(Tested(), numbers(3), verbose=False) == [{"test_loss": 2.0, "more": 1.5}]


def test_a_half_migrated_module_logs_with_both():
    class Half(Validated):
        def training_step(self, batch, batch_idx):
            loss = self(batch).mean()
            self.log("loss", loss, prog_bar=True, on_epoch=True)
            return {"loss": loss, "log": {"loss": loss, "returned": 1.0}}

        def validation_step(self, batch, batch_idx):
            loss = self(batch).mean()
            self.log("val_loss", loss)
            return {"val_loss": loss}

        def validation_epoch_end(self, outputs):
            self.log("from_the_end", float(len(outputs)))
            return {"log": {"returned_too": 2.0}}

    rows = Rows()
    trainer = fit(Half(), logger=rows, log_every_n_steps=4)

    assert rows.rows == [
        (3, {"loss_step": 6.0, "returned": 1.0, "epoch": 0}),
        (3, {"val_loss": 2.0, "from_the_end": 3.0, "returned_too": 2.0, "epoch": 0}),
        (3, {"loss_epoch": 3.0, "epoch": 0}),
    ]
    assert trainer.callback_metrics["loss"].item() == 3.0


class Mixed(Validated):
    """Written by many hands over the years."""

    def __init__(self, hparams):
        super().__init__(lr=hparams.lr)
        self.hparams = hparams  # 0.7
        self.seen = []

    def on_epoch_start(self):  # 0.7
        self.seen.append("epoch_start")

    def on_train_epoch_start(self):  # 2.x
        self.seen.append("train_epoch_start")

    def training_step(self, batch, batch_nb, optimizer_idx=0):  # 1.x, with a name of 0.5
        loss = self(batch).mean()
        self.log("loss", loss, reduce_fx=torch.mean)  # 1.0
        return {"loss": loss, "log": {"old": loss}}  # 0.7

    def training_epoch_end(self, outputs):  # 1.x
        self.seen.append(len(outputs))

    def on_train_epoch_end(self):  # 2.x
        self.seen.append("train_epoch_end")

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, **kwargs):  # 1.5
        optimizer.step(closure=optimizer_closure)

    def on_before_optimizer_step(self, optimizer):  # 2.x
        self.seen.append("step")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):  # 2.x
        return {"val_loss": self(batch).mean()}

    def on_validation_epoch_end(self):  # 2.x
        self.log("today", 1.0)

    def validation_end(self, outputs):  # 0.7
        return {"val_loss": torch.stack([one["val_loss"] for one in outputs]).mean()}


def test_a_module_may_mix_the_spellings_of_all_eras():
    module = Mixed(Namespace(lr=0.25))
    trainer = fit(module, 2, callbacks=[EarlyStopping("val_loss", mode="min")])

    assert module.seen == ["epoch_start", "train_epoch_start", "step", "step", 2, "train_epoch_end"]
    assert {"loss", "old", "today", "val_loss"} <= set(trainer.callback_metrics)
    assert module.layer.bias.tolist() == [-0.5]


def test_the_sanity_check_calls_the_epoch_end_and_leaves_no_trace():
    class Sane(Dicts):
        calls = 0

        def validation_epoch_end(self, outputs):
            self.calls += 1
            assert len(outputs) == (2 if self.calls == 1 else 3)
            return super().validation_epoch_end(outputs)

        def on_train_start(self):
            assert self.calls == 1
            assert self.trainer.callback_metrics == {}

    rows = Rows()
    module = Sane()
    fit(module, logger=rows, num_sanity_val_steps=2, log_every_n_steps=9)

    assert module.calls == 2
    assert rows.rows == [(3, {"logged": 3.0, "epoch": 0})]


def test_each_old_spelling_is_told_once_with_todays():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Dicts(), max_epochs=2, log_every_n_steps=1)

    told = [str(one.message) for one in caught if "today" in str(one.message)]
    assert len(told) == 2
    assert any("validation_epoch_end" in one and "on_validation_epoch_end" in one for one in told)
    assert any("self.log" in one and "prog_bar" in one for one in told)


# ---- outputs


def test_training_outputs_are_detached_dicts_with_the_whole_loss():
    module = Kept()
    fit(module, max_epochs=2, accumulate_grad_batches=2)

    outputs = module.kept["train"]
    assert [one["loss"].item() for one in outputs] == [0.0, 2.0, 4.0, 6.0]
    assert not any(one["loss"].requires_grad for one in outputs)


def test_evaluation_outputs_are_what_the_steps_returned():
    module, trainer = Kept(), make_trainer()
    trainer.fit(module, numbers(1), numbers(3))
    trainer.test(module, numbers(2), verbose=False)
    trainer.predict(module, numbers(2))

    assert torch.stack(module.kept["validation"]).tolist() == [0.0, 2.0, 4.0]
    assert torch.stack(module.kept["test"]).tolist() == [0.0, 2.0]
    assert torch.cat(module.kept["predict"]).tolist() == [[0.0], [2.0]]


def test_several_loaders_give_a_list_for_each():
    class Two(Kept):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            return {"value": dataloader_idx, "loss": self(batch).mean()}

    module = Two()
    make_trainer().fit(module, numbers(1), [numbers(3), numbers(2)])

    assert [[one["value"] for one in outputs] for outputs in module.kept["validation"]] == [[0, 0, 0], [1, 1]]


def test_outputs_are_let_go_behind_the_hook():
    class Freed(Kept):
        def on_train_start(self):
            self.gathered = self.trainer.__dict__["_outputs"]

        def on_train_end(self):
            assert [one.kept for one in self.gathered.values()] == [{}, {}, {}, {}]

    fit(Freed())


def test_nothing_is_kept_for_modules_without_such_a_hook():
    class Listening(Validated):
        def on_epoch_start(self):
            """An old hook that wants no outputs."""

        def on_train_end(self):
            assert self.trainer.__dict__["_outputs"] == {}
            assert self.trainer.hooks.on_train_batch_end == ()

    fit(Listening())


def test_outputs_of_an_open_epoch_go_through_a_checkpoint(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

    module = Kept()
    fit(Kept(), callbacks=[Saves()])
    make_trainer().fit(module, numbers(4), ckpt_path=tmp_path / "2.ckpt")

    assert [one["loss"].item() for one in module.kept["train"]] == [0.0, 2.0, 4.0, 6.0]


def test_self_log_works_in_a_training_epoch_end():
    class Logged(Net):
        def training_epoch_end(self, outputs):
            self.log("last", outputs[-1]["loss"])

    assert fit(Logged()).callback_metrics["last"].item() == 6.0


# ---- hyperparameters as an argument


@pytest.mark.parametrize("given", [Namespace(lr=0.5, width=3), {"lr": 0.5, "width": 3}])
def test_hparams_given_as_an_argument_are_assigned_saved_and_loaded(given, tmp_path):
    class Configured(Net):
        def __init__(self, hparams):
            super().__init__()
            self.hparams = hparams
            self.lr = self.hparams.lr

    rows = Rows()
    trainer = fit(Configured(given), logger=rows, log_every_n_steps=1, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module = Configured.load_from_checkpoint(tmp_path / "a.ckpt")

    assert rows.hparams == [{"lr": 0.5, "width": 3}]
    assert (module.hparams.width, module.hparams["width"], module.lr) == (3, 3, 0.5)


def test_other_assignments_of_hparams_name_save_hyperparameters():
    class Wrong(Net):
        def __init__(self, lr=1.0):
            super().__init__()
            self.hparams = {"lr": lr}

    with pytest.raises(AttributeError, match="save_hyperparameters"):
        Wrong()


# ---- where the data come from


def test_tng_dataloader_and_attributes_set_in_prepare_data():
    from fulmen.compat.functions import data_loader

    class Oldest(Net):
        def prepare_data(self):
            self.length = 3

        @data_loader
        def tng_dataloader(self):
            return numbers(self.length)

    trainer = make_trainer()
    trainer.fit(Oldest())

    assert trainer.global_step == 3


def test_the_optimizers_scheduler_may_have_the_key_opt_idx():
    class Indexed(Dicts):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": "epoch", "opt_idx": 0}]

    assert fit(Indexed(), max_epochs=2).optimizers[0].param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", ["get_progress_bar_dict", "get_tqdm_dict"])
def test_the_bar_shows_what_the_module_says(name):
    class Shown(Dicts):
        """Gets the hook by one of its names."""

    setattr(Shown, name, lambda self: {"own": 7})
    trainer = make_trainer(enable_progress_bar=True)
    trainer.fit(Shown(), numbers(2))

    assert trainer.progress_bar_callback.get_metrics(trainer, trainer.lightning_module) == {"own": 7, "seen": 1.0}


def test_best_is_what_a_module_kept_by_its_own_callback():
    class Brings(Validated):
        def configure_callbacks(self):
            return ModelCheckpoint("kept", filename="{epoch}")

    module = Brings()
    trainer = fit(module, enable_checkpointing=True)
    trainer.test(module, numbers(1), ckpt_path="best", verbose=False)

    assert trainer.ckpt_path.endswith("epoch=0.ckpt")
