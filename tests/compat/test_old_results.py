"""TrainResult and EvalResult."""

from __future__ import annotations

import copy

import pytest
import torch
from small import Net, Rows, make_trainer, numbers

from fulmen.callbacks import EarlyStopping, ModelCheckpoint
from fulmen.compat.results import EvalResult, Result, TrainResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Results(Net):
    """Losses are 0, 2, 4, 6 in training and 0, 2, 4 in validation."""

    def training_step(self, batch, batch_idx):
        result = TrainResult(minimize=self(batch).mean())
        result.log("train_loss", result.minimize, prog_bar=True)
        return result

    def validation_step(self, batch, batch_idx):
        loss = self(batch).mean()
        result = EvalResult(checkpoint_on=loss, early_stop_on=loss)
        result.log_dict({"val_loss": loss, "twice": 2 * loss})
        return result


def fit(module, **options):
    trainer = make_trainer(**options)
    trainer.fit(module, numbers(4), numbers(3))
    return trainer


def test_results_train_and_log():
    rows = Rows()

    trainer = fit(Results(lr=0.0), logger=rows, log_every_n_steps=2)

    assert rows.rows == [
        (1, {"train_loss": 2.0, "epoch": 0}), (3, {"train_loss": 6.0, "epoch": 0}),
        (3, {"val_loss": 2.0, "twice": 4.0, "epoch": 0}),
    ]  # fmt: skip
    assert trainer.progress_bar_metrics == {"train_loss": 6.0}
    assert trainer.callback_metrics["checkpoint_on"].item() == 2.0


def test_the_loss_of_a_result_is_minimized():
    module = Results(lr=0.125)
    fit(module, limit_val_batches=0)

    assert module.layer.weight.tolist() == [[0.25, 0.25]]


def test_callbacks_without_a_monitor_watch_what_the_result_says(tmp_path):
    class Worse(Results):
        def validation_step(self, batch, batch_idx):
            return EvalResult(float(self.current_epoch), checkpoint_on=float(self.current_epoch))

    callbacks = [ModelCheckpoint(tmp_path, filename="{epoch}"), EarlyStopping("val_loss", patience=2)]
    trainer = fit(Worse(), callbacks=callbacks, enable_checkpointing=True, max_epochs=9, num_sanity_val_steps=1)

    assert callbacks[0].best_model_path.endswith("epoch=0.ckpt")
    assert trainer.current_epoch == 3


def test_a_test_step_may_rename_the_result_of_validation():
    class Tested(Results):
        def test_step(self, batch, batch_idx):
            result = self.validation_step(batch, batch_idx)
            result.rename_keys({"val_loss": "test_loss", "twice": "test_twice"})
            return result

    results = make_trainer().test(Tested(), numbers(3), verbose=False)

    assert results == [{"checkpoint_on": 2.0, "early_stop_on": 2.0, "test_loss": 2.0, "test_twice": 4.0}]


def test_epoch_ends_get_one_result_with_all_values():
    class Ended(Results):
        def validation_step(self, batch, batch_idx):
            result = EvalResult()
            result.loss, result.output = self(batch).mean(), self(batch)
            return result

        def validation_epoch_end(self, outputs):
            assert outputs.output.tolist() == [[0.0], [2.0], [4.0]]
            result = EvalResult(checkpoint_on=outputs.loss.mean())
            result.log("mean", outputs.loss.mean())
            return result

        def training_epoch_end(self, outputs):
            result = TrainResult()
            result.log("train_mean", outputs.minimize.mean())
            return result

    trainer = fit(Ended())

    assert trainer.callback_metrics["mean"].item() == 2.0
    assert trainer.callback_metrics["train_mean"].item() == 3.0


def test_both_by_step_and_by_epoch_gives_two_names():
    class Both(Net):
        def training_step(self, batch, batch_idx):
            result = TrainResult(self(batch).mean())
            result.log("loss", result.minimize, on_step=True, on_epoch=True)
            return result

    metrics = fit(Both()).callback_metrics

    assert (metrics["step_loss"].item(), metrics["epoch_loss"].item()) == (6.0, 3.0)


def test_a_result_is_a_dict_whose_items_are_attributes():
    result = TrainResult(torch.ones(()), checkpoint_on=True)
    result.x = 3

    assert result == {"loss": 1.0, "checkpoint_on": 1.0, "x": 3}
    assert (result.minimize, result.x) == (1.0, 3)
    assert isinstance(copy.deepcopy(result), Result)
    with pytest.raises(AttributeError, match="no value 'y'"):
        _ = result.y


def test_of_several_loaders_the_last_ones_value_is_watched(tmp_path):
    class Two(Results):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            return EvalResult(checkpoint_on=torch.tensor(float(self.current_epoch * (-1) ** dataloader_idx)))

    saved = ModelCheckpoint(tmp_path, filename="{epoch}")
    make_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[saved]).fit(
        Two(lr=0.0), numbers(2), [numbers(1), numbers(1)]
    )

    assert [path.name for path in tmp_path.iterdir()] == ["epoch=2.ckpt"]
