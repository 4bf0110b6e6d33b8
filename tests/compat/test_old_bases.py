"""What old code calls on the base classes, once they were reached by an old import name."""

from __future__ import annotations

import inspect
from argparse import Namespace

import pytest
import torch
from small import Net, Validated, make_trainer, numbers

from fulmen import LightningDataModule, LightningModule
from fulmen.callbacks import Callback, LambdaCallback
from fulmen.compat import bases, finder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def completed():
    """The base classes with their past."""
    bases.complete()


def fit(module, *callbacks, **options):
    trainer = make_trainer(callbacks=list(callbacks), **options)
    trainer.fit(module, numbers(2), numbers(1))
    return trainer


class CallsModule(Validated):
    def on_epoch_end(self):
        super().on_epoch_end()
        self.ended = True

    def training_step_end(self, output):
        return super().training_step_end(output)

    def training_epoch_end(self, outputs):
        super().training_epoch_end(outputs)

    def on_train_batch_end(self, outputs, batch, batch_idx, dataloader_idx):
        super().on_train_batch_end(outputs, batch, batch_idx, dataloader_idx)

    def on_train_epoch_end(self, outputs):
        super().on_train_epoch_end(outputs)

    def setup(self):
        super().setup()


class CallsCallback(Callback):
    def on_init_end(self, trainer):
        super().on_init_end(trainer)

    def on_batch_end(self, trainer, pl_module):
        super().on_batch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer, pl_module, outputs):
        super().on_train_epoch_end(trainer, pl_module, outputs)

    def on_save_checkpoint(self, trainer, pl_module):
        super().on_save_checkpoint(trainer, pl_module)


def test_super_of_every_old_hook():
    module = CallsModule(lr=0.25)
    fit(module, CallsCallback())

    assert module.ended
    assert module.layer.bias.tolist() == [-0.5]


def test_super_of_hooks_with_older_arguments():
    class Calls(Net):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu, using_lbfgs):
            super().optimizer_step(
                epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu=on_tpu, using_lbfgs=using_lbfgs
            )

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer, optimizer_idx):
            super().optimizer_zero_grad(epoch, batch_idx, optimizer, optimizer_idx)

        def backward(self, loss, optimizer, optimizer_idx):
            super().backward(loss, optimizer, optimizer_idx)

        def configure_gradient_clipping(self, optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm):
            super().configure_gradient_clipping(optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm)

        def transfer_batch_to_device(self, batch, device):
            return super().transfer_batch_to_device(batch, device)

        def lr_scheduler_step(self, scheduler, optimizer_idx, metric):
            super().lr_scheduler_step(scheduler, optimizer_idx, metric)

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    module = Calls(lr=0.5)
    trainer = fit(module, gradient_clip_val=0.5, gradient_clip_algorithm="value")

    assert module.layer.bias.tolist() == [-0.5]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_super_of_the_oldest_hooks():
    class Calls(Net):
        def optimizer_step(self, current_epoch, batch_nb, optimizer, optimizer_i, second_order_closure=None):
            super().optimizer_step(current_epoch, batch_nb, optimizer, optimizer_i, second_order_closure)

        def backward(self, use_amp, loss, optimizer):
            super().backward(use_amp, loss, optimizer)

    module = Calls(lr=0.5)
    fit(module)

    assert module.layer.bias.tolist() == [-1.0]


def test_manual_backward_and_toggle_optimizer_with_the_optimizer():
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.toggle_optimizer(optimizer, 0)
            optimizer.zero_grad()
            self.manual_backward(self(batch).mean(), optimizer)
            self.manual_backward(self(batch).mean(), optimizer, 0)
            optimizer.step()
            self.untoggle_optimizer(0)

    module = Manual(lr=0.25)
    fit(module)

    assert module.layer.bias.tolist() == [-1.0]


def test_signatures_are_those_of_today():
    assert list(inspect.signature(LightningModule.optimizer_step).parameters) == [
        "self", "epoch", "batch_idx", "optimizer", "optimizer_closure",
    ]  # fmt: skip


def test_todays_hooks_are_still_not_overridden_by_what_inherits_them():
    hooks = fit(Net()).hooks

    assert not any(calls for name, calls in vars(hooks).items() if name.startswith(("on_train", "optimizer", "setup")))


# ---- hyperparameters


class OldNet(Net):
    def __init__(self, hparams):
        super().__init__(lr=hparams.lr)
        self.hparams = hparams


def test_hparams_are_kept_and_loaded(tmp_path):
    fit(OldNet(Namespace(lr=0.25, name="a"))).save_checkpoint(tmp_path / "a.ckpt")

    module = OldNet.load_from_checkpoint(tmp_path / "a.ckpt")
    other = OldNet.load_from_checkpoint(tmp_path / "a.ckpt", hparam_overrides={"lr": 0.5})
    assert other.load_from_checkpoint(tmp_path / "a.ckpt") is not other

    assert (module.lr, module.hparams.name, module.hparams["lr"]) == (0.25, "a", 0.25)
    assert other.lr == 0.5


def test_hparams_that_are_no_argument_while_the_old_names_are_in_use(monkeypatch):
    import sys

    class Made(Net):
        def __init__(self, **kwargs):
            super().__init__()
            self.hparams = kwargs

    class Empty(Net):
        def __init__(self):
            super().__init__()
            self.hparams = None

    monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if not isinstance(one, finder.Finder)])
    with pytest.raises(AttributeError, match="save_hyperparameters"):
        Made(lr=1.0)
    monkeypatch.setattr(sys, "meta_path", [finder.Finder(), *sys.meta_path])

    assert Made(lr=1.0).hparams == {"lr": 1.0}
    assert Empty().hparams == {}


def test_load_from_metrics_reads_the_csv_of_the_hyperparameters(tmp_path):
    fit(OldNet(Namespace(lr=0.25))).save_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "tags.csv").write_text("key,value\nlr,0.5\n")

    assert OldNet.load_from_metrics(tmp_path / "a.ckpt", tmp_path / "tags.csv").lr == 0.5
    assert OldNet.load_from_checkpoint(tmp_path / "a.ckpt", tags_csv=tmp_path / "tags.csv").lr == 0.5


# ---- datamodules


def test_datamodules_keep_transforms_and_the_shape_of_a_sample():
    class Data(LightningDataModule):
        def __init__(self):
            super().__init__(train_transforms=abs, dims=(3, 32))

    data = Data()

    assert (data.train_transforms, data.val_transforms, data.dims) == (abs, None, (3, 32))
    assert (data.size(), data.size(1), data.size(dim=-1)) == ((3, 32), 32, 32)


def test_hooks_of_a_datamodule_for_checkpoints(tmp_path):
    class Data(LightningDataModule):
        place = 0

        def train_dataloader(self):
            self.place += 1
            return numbers(2)

        def on_save_checkpoint(self, checkpoint):
            super().on_save_checkpoint(checkpoint)
            checkpoint["place"] = self.place

        def on_load_checkpoint(self, checkpoint):
            self.place = checkpoint["place"] * 10

    trainer, data = make_trainer(), Data()
    trainer.fit(Net(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    make_trainer(max_epochs=2).fit(Net(), datamodule=data, ckpt_path=tmp_path / "a.ckpt")

    assert data.place == 11


# ---- self.log


class Logs(Net):
    """Logs as in 1.0; the losses are 0 and 2."""

    def training_step(self, batch, batch_idx):
        loss = self(batch).mean()
        self.log("loss", loss, reduce_fx=torch.mean, tbptt_reduce_fx=torch.mean, on_epoch=True, sync_dist_op="mean")
        self.log_dict({"more": loss}, tbptt_pad_token=0, on_step=True)
        return loss


def test_old_arguments_of_log_are_left_out():
    metrics = fit(Logs()).callback_metrics

    assert (metrics["loss_epoch"], metrics["more"]) == (1.0, 2.0)


def test_a_reduction_given_as_a_function_goes_through_a_checkpoint_within_an_epoch(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

    fit(Logs(), Saves())
    trainer = make_trainer()
    trainer.fit(Logs(), numbers(2), ckpt_path=tmp_path / "0.ckpt")

    assert trainer.callback_metrics["loss_epoch"] == 1.0


def test_a_batch_is_one_global_step_as_long_as_the_backward_pass_is_told_its_optimizer():
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.at = [*getattr(self, "at", ()), self.global_step]
            for _ in range(2):
                optimizer = self.optimizers()
                self.manual_backward(self(batch).mean(), optimizer)
                optimizer.step()

    module = Manual()

    assert fit(module, max_epochs=2).global_step == 4
    assert module.at == [0, 1, 2, 3]


def test_lambda_callbacks_take_hooks_of_then():
    epochs = []

    fit(Net(), LambdaCallback(on_epoch_start=lambda trainer, module: epochs.append(trainer.current_epoch)))

    assert epochs == [0]


def test_a_datamodule_tells_whether_it_was_prepared():
    data = LightningDataModule()
    assert not data.has_prepared_data

    data.train_dataloader = lambda: numbers(1)
    make_trainer().fit(Net(), datamodule=data)

    assert data.has_prepared_data
    assert data.has_setup_fit
