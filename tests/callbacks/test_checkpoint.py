"""ModelCheckpoint: when it saves, and which files stay. Runs have 4 batches an epoch and one optimizer step a batch."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from callbacks.small import QUIET, Scored

import fulmen as L
from fulmen.callbacks import Callback, ModelCheckpoint
from fulmen.errors import MisconfigurationException

SCORES = [5.0, 3.0, 4.0, 1.0, 2.0, 6.0]
NAN = float("nan")

pytestmark = pytest.mark.filterwarnings("ignore:Validation gave")  # what is not finite is scored on purpose


class Model(Scored):
    """Also logs the step it stands at, so that a file's name tells whether the value belongs to its weights."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.log("at", float(self.global_step))

    def training_step(self, batch, batch_idx):
        self.log("train_at", float(self.global_step + 1))
        return super().training_step(batch, batch_idx)


def run(scores=SCORES, *, train=False, trainer=None, **options) -> ModelCheckpoint:
    """Three epochs; the callback."""
    callback = ModelCheckpoint("c", **options)
    settings = {**QUIET, "enable_checkpointing": True, "max_epochs": 3, **(trainer or {})}
    L.Trainer(callbacks=[callback], **settings).fit(Model(scores, train))
    return callback


def kept() -> set[str]:
    return {path.relative_to("c").with_suffix("").as_posix() for path in Path("c").rglob("*.ckpt")}


def steps() -> list[int]:
    """Global steps of the files, read from them."""
    return sorted(torch.load(path, weights_only=True)["global_step"] for path in Path("c").glob("*.ckpt"))


# ---- which files stay


def test_without_monitor_the_newest_stays():
    callback = run()
    assert kept() == {"epoch=2-step=12"}
    assert callback.best_model_path == os.path.realpath("c/epoch=2-step=12.ckpt")
    assert callback.best_model_score is None


@pytest.mark.parametrize(
    ("mode", "top", "expected"),
    [
        ("min", 1, {1}), ("min", 2, {1, 2}), ("min", 5, {0, 1, 2}), ("max", 1, {0}), ("max", 2, {0, 2}),
        ("min", 0, set()), ("min", -1, {0, 1, 2}),
    ],
)  # fmt: skip
def test_the_best_k_stay(mode, top, expected):
    run(monitor="score", mode=mode, save_top_k=top)
    assert kept() == {f"epoch={epoch}-step={4 * epoch + 4}" for epoch in expected}


def test_best_and_kth_are_known():
    callback = run(monitor="score", save_top_k=2)
    best, kth = (os.path.realpath(f"c/epoch={e}-step={s}.ckpt") for e, s in ((1, 8), (2, 12)))
    assert (callback.best_model_path, callback.best_model_score.item()) == (best, 3.0)
    assert (callback.kth_best_model_path, callback.kth_value.item()) == (kth, 4.0)
    assert {path: score.item() for path, score in callback.best_k_models.items()} == {best: 3.0, kth: 4.0}
    assert callback.current_score.item() == 4.0


@pytest.mark.parametrize(
    ("scores", "top", "expected"),
    [
        ([NAN, 3.0, 2.0], 1, {2}), ([3.0, NAN, 4.0], 1, {0}), ([3.0, NAN, 4.0], 2, {0, 2}), ([NAN, NAN, NAN], 1, {0}),
        ([1.0, 1.0, 1.0], 1, {0}), ([1.0, 1.0, 1.0], 2, {0, 1}), ([float("inf"), 3.0, 5.0], 1, {1}),
    ],
)  # fmt: skip
def test_what_is_no_number_counts_as_worst_and_equals_do_not_replace(scores, top, expected):
    run(scores, monitor="score", save_top_k=top)
    assert kept() == {f"epoch={epoch}-step={4 * epoch + 4}" for epoch in expected}


@pytest.mark.parametrize("monitor", ["epoch", "step"])
def test_counters_can_be_monitored(monitor):
    run(monitor=monitor, mode="max", save_top_k=2)
    assert steps() == [8, 12]


# ---- when


@pytest.mark.parametrize(
    ("options", "trainer", "expected"),
    [
        ({}, {}, [4, 8, 12]),
        ({"every_n_epochs": 2}, {}, [8]),
        ({"every_n_epochs": 0}, {}, []),
        ({"every_n_train_steps": 3}, {}, [3, 6, 9, 12]),
        ({"every_n_train_steps": 0}, {}, []),
        ({"train_time_interval": timedelta(0)}, {}, list(range(1, 13))),
        ({"train_time_interval": timedelta(hours=1)}, {}, []),
        ({}, {"val_check_interval": 2}, [2, 4, 6, 8, 10, 12]),
        ({"save_on_train_epoch_end": True}, {"val_check_interval": 2}, [4, 8, 12]),
        ({"save_on_train_epoch_end": False}, {"limit_val_batches": 0}, []),
        ({}, {"limit_val_batches": 0}, [4, 8, 12]),
        ({}, {"check_val_every_n_epoch": 2}, [8]),
        ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": 2}, [4, 8, 12]),
        ({}, {"max_steps": 6}, [4, 6]),
        ({"every_n_train_steps": 2}, {"accumulate_grad_batches": 2}, [2, 4, 6]),
        ({"every_n_train_steps": 1}, {"accumulate_grad_batches": 3}, [1, 2, 3, 4, 5, 6]),
        ({}, {"fast_dev_run": True}, []),
    ],
    ids=str,
)
def test_saves_come_when_they_are_due(options, trainer, expected):
    run(trainer=trainer, save_top_k=-1, **options)
    assert steps() == expected


@pytest.mark.parametrize(
    ("options", "trainer", "expected"),
    [
        # due on the very batch after which validation runs: saved after it
        ({"every_n_train_steps": 2}, {"val_check_interval": 2}, [2, 4, 6, 8, 10, 12]),
        ({"every_n_train_steps": 4}, {}, [4, 8, 12]),
        # due in between: saved as soon as the value is known
        ({"every_n_train_steps": 3}, {"val_check_interval": 2}, [4, 6, 10, 12]),
        ({"every_n_train_steps": 3}, {}, [4, 8, 12]),
        ({"train_time_interval": timedelta(0)}, {"val_check_interval": 2}, [2, 4, 6, 8, 10, 12]),
        ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": 2, "max_epochs": 4}, [8, 16]),
    ],
    ids=str,
)
def test_a_validation_metric_belongs_to_the_weights_in_the_file(options, trainer, expected):
    run(trainer=trainer, monitor="at", mode="max", save_top_k=-1, filename="{step}-{at:.0f}", **options)
    assert kept() == {f"step={step}-at={step}" for step in expected}


def test_without_monitor_a_value_in_the_name_is_waited_for_only_on_the_batch_of_a_validation():
    with pytest.warns(UserWarning, match=r"names 'at', which is not logged \(yet\)"):
        run(trainer={"val_check_interval": 2}, save_top_k=-1, filename="{step}-{at:.0f}", every_n_train_steps=1)
    assert {"step=2-at=2", "step=3-at=2", "step=4-at=4", "step=5-at=4"} <= kept()


def test_a_metric_of_the_training_step_is_saved_with_its_step():
    run(monitor="train_at", mode="max", save_top_k=-1, filename="{step}-{train_at:.0f}", every_n_train_steps=3)
    assert kept() == {f"step={step}-train_at={step}" for step in (3, 6, 9, 12)}


@pytest.mark.parametrize("trainer", [{}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}], ids=str)
def test_a_metric_of_the_epochs_end_is_waited_for(trainer):
    callback = run(train=True, trainer=trainer, monitor="score", save_top_k=-1, every_n_train_steps=3)
    assert steps() == [4, 8, 12]
    assert [score.item() for score in callback.best_k_models.values()] == [5.0, 3.0, 4.0]


def test_the_hook_of_every_batch_does_nothing_when_epochs_count():
    callback = ModelCheckpoint("c")
    L.Trainer(callbacks=[callback], **{**QUIET, "enable_checkpointing": True, "max_epochs": 1}).fit(Model(SCORES))
    callback.on_train_batch_end(None, None, None, None, 0)  # would need a trainer if it asked anything


# ---- exceptions


class Break(Callback):
    def __init__(self, step: int, validation: bool = False):
        self.step, self.validation = step, validation

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and not self.validation:
            raise RuntimeError("broken")

    def on_validation_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and self.validation:
            raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("options", "stop", "expected"),
    [
        ({"save_on_exception": True}, Break(6), [4, 6]),
        ({"save_on_exception": True}, Break(8, validation=True), [4, 8]),
        ({"save_on_exception": True, "save_top_k": 0}, Break(6), [6]),
        ({"save_on_exception": True, "save_last": True}, Break(6), [4, 6, 6]),
        ({"save_on_exception": True}, Break(0), []),
        ({"save_on_exception": True}, Break(4), [4]),
        ({}, Break(6), [4]),
    ],
)
def test_an_exception_saves_what_is_not_saved_yet(options, stop, expected):
    callback = ModelCheckpoint("c", **options)
    trainer = L.Trainer(callbacks=[callback, stop], **{**QUIET, "enable_checkpointing": True})
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(Model(SCORES))
    assert steps() == expected


# ---- last.ckpt


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({}, 12), ({"save_top_k": 0}, 12), ({"every_n_train_steps": 5}, 10), ({"every_n_epochs": 2}, 8),
        ({"monitor": "score"}, 12), ({"monitor": "score", "every_n_train_steps": 5}, 12),
        ({"monitor": "score", "every_n_train_steps": 11}, 12), ({"monitor": "scor", "every_n_train_steps": 5}, 12),
        ({"every_n_epochs": 4}, 12), ({"every_n_train_steps": 13, "monitor": "score"}, 12),
        ({"save_top_k": 0, "every_n_epochs": 2}, 12),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ModelCheckpoint")
def test_last_is_of_the_newest_moment_at_which_a_save_was_due_and_else_of_the_end(options, at):
    callback = run(save_last=True, **options)
    assert torch.load("c/last.ckpt", weights_only=True)["global_step"] == at
    assert callback.last_model_path == os.path.realpath("c") + "/last.ckpt"
    assert not Path("c/last.ckpt").is_symlink()


@pytest.mark.parametrize(("options", "target"), [({}, 12), ({"save_top_k": -1, "monitor": "score"}, 12)], ids=str)
def test_last_can_be_a_link(options, target):
    run(save_last="link", **options)
    assert os.readlink("c/last.ckpt") == f"epoch=2-step={target}.ckpt"


def test_the_copy_holds_the_same_as_the_original():
    run(save_last=True)
    assert Path("c/last.ckpt").read_bytes() == Path("c/epoch=2-step=12.ckpt").read_bytes()


def test_last_may_have_a_template_and_the_former_one_goes():
    class Named(ModelCheckpoint):
        CHECKPOINT_NAME_LAST = "{step}-newest"

    L.Trainer(callbacks=[Named("c", save_last=True)], **{**QUIET, "enable_checkpointing": True}).fit(Model(SCORES))
    assert kept() == {"epoch=4-step=20", "step=20-newest"}


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "maxx"}, r"mode='maxx' must be 'min' or 'max'. Did you mean 'max'\?"),
        ({"save_top_k": -2}, r"save_top_k=-2 must be an int >= -1"),
        ({"save_top_k": 1.5}, r"save_top_k=1.5 must be"),
        ({"save_top_k": 3}, r"save_top_k=3 needs monitor="),
        ({"save_last": "lnik"}, r"save_last='lnik' must be True, False, None or 'link'"),
        ({"every_n_train_steps": -1}, r"every_n_train_steps=-1 must be an int >= 0"),
        ({"every_n_epochs": -3}, r"every_n_epochs=-3 must be an int >= 0"),
        ({"every_n_epochs": 1, "every_n_train_steps": 2}, r"exclude each other"),
        ({"every_n_epochs": 1, "train_time_interval": timedelta(1)}, r"exclude each other"),
    ],
)
def test_senseless_arguments_are_refused(options, said):
    with pytest.raises(MisconfigurationException, match=said):
        ModelCheckpoint(**options)


def test_an_interval_that_is_no_timedelta_and_a_folder_that_is_no_path_are_refused():
    with pytest.raises(TypeError, match=r"train_time_interval=5 must be a datetime.timedelta"):
        ModelCheckpoint(train_time_interval=5)
    with pytest.raises(TypeError, match=r"dirpath=3 must be a path"):
        ModelCheckpoint(dirpath=3)


NOBODY_LOGS = r"monitor='scor'.*mean 'score'\? Metrics available: .*'at'"


@pytest.mark.parametrize("options", [{}, {"save_top_k": -1}], ids=str)
def test_a_monitor_that_nobody_logs_ends_the_first_epoch(options):
    with pytest.raises(MisconfigurationException, match=NOBODY_LOGS):
        run(monitor="scor", **options)
    assert kept() == set()


@pytest.mark.filterwarnings("ignore:.* has validation_step, but there are no validation data")
def test_so_does_one_in_a_run_that_has_no_validation():
    class Unvalidated(Model):
        val_dataloader = L.LightningModule.val_dataloader

    callbacks = [ModelCheckpoint("c", monitor="scor")]
    with pytest.raises(MisconfigurationException, match="monitor='scor'"):
        L.Trainer(callbacks=callbacks, **{**QUIET, "enable_checkpointing": True}).fit(Unvalidated(SCORES))


@pytest.mark.parametrize("options", [{"every_n_train_steps": 2}, {"trainer": {"limit_val_batches": 0}}], ids=str)
def test_saves_by_step_and_runs_with_validation_turned_off_only_warn_of_it(options):
    nobody = NOBODY_LOGS if "trainer" not in options else "monitor='scor'.*'train_at'"
    with pytest.warns(UserWarning, match=f"{nobody}.* no file is saved"):
        assert run(monitor="scor", **options).best_model_path == ""
    assert kept() == set()
    with pytest.warns(UserWarning, match=f"{nobody}.* only last.ckpt is saved"):
        run(monitor="scor", save_last=True, **options)
    assert kept() == {"last"}


def test_a_folder_that_cannot_be_made_is_told_before_the_first_batch():
    Path("c").write_text("a file")
    with pytest.raises(
        MisconfigurationException, match=r"cannot save in the folder '.*c/deeper': .* is a file, not a directory"
    ):
        L.Trainer(callbacks=[ModelCheckpoint("c/deeper")], **{**QUIET, "enable_checkpointing": True}).fit(Model(SCORES))
