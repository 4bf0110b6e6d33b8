"""Each old argument does what it did, and says once how it is spelled today."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from compat.trainers import QUIET, SMALL, has, quiet, then
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import (
    GradientAccumulationScheduler,
)
from fulmen.compat.arguments import translate_call
from fulmen.demos import BoringModel, RandomDataset
from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::fulmen.warn.PossibleUserWarning")


# ---- names


@pytest.mark.parametrize(
    ("name", "value", "today"),
    [
        ("max_nb_epochs", 3, "max_epochs"),
        ("min_nb_epochs", 2, "min_epochs"),
        ("nb_gpu_nodes", 1, "num_nodes"),
        ("gradient_clip", 0.5, "gradient_clip_val"),
        ("row_log_interval", 7, "log_every_n_steps"),
        ("add_row_log_interval", 7, "log_every_n_steps"),
    ],
)
def test_renamed_arguments(name, value, today):
    arguments = {key: argument for key, argument in {**QUIET, **SMALL}.items() if key != today}

    trainer = then(f"{today}={value!r}", **arguments, **{name: value})

    assert getattr(trainer, today) == value


def test_nb_sanity_val_steps():
    arguments = {name: value for name, value in QUIET.items() if name != "num_sanity_val_steps"}

    assert then("num_sanity_val_steps=5", **arguments, nb_sanity_val_steps=5, max_epochs=1).num_sanity_val_steps == 5


def test_default_save_path(tmp_path):
    assert quiet("default_root_dir=", default_save_path=str(tmp_path / "x")).default_root_dir == str(tmp_path / "x")


def test_replace_sampler_ddp():
    assert quiet("use_distributed_sampler=False", replace_sampler_ddp=False).options.use_distributed_sampler is False


def test_use_amp_is_mixed_precision():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(**QUIET, **SMALL, use_amp=True)

    assert trainer.precision in ("16-mixed", "bf16-mixed")  # on the CPU it is bf16


@pytest.mark.parametrize(
    ("name", "today"),
    [("train_percent_check", "limit_train_batches"), ("val_percent_check", "limit_val_batches"),
     ("test_percent_check", "limit_test_batches"), ("overfit_pct", "overfit_batches")],
)  # fmt: skip
def test_shares_stay_shares_even_as_the_int_1(name, today):
    trainer = then(f"{today}=1.0", **QUIET, max_epochs=1, **{name: 1})

    assert (getattr(trainer, today), type(getattr(trainer, today))) == (1.0, float)


def test_train_percent_check_takes_that_share_of_the_batches():
    trainer = then("limit_train_batches=0.25", **QUIET, max_epochs=1, train_percent_check=0.25, limit_val_batches=0)
    trainer.fit(BoringModel())

    assert trainer.global_step == 16


@pytest.mark.parametrize("value", [True, False])
def test_reload_dataloaders_every_epoch(value):
    class Counting(BoringModel):
        loads = 0

        def train_dataloader(self):
            self.loads += 1
            return super().train_dataloader()

    model = Counting()
    words = "reload_dataloaders_every_n_epochs=1" if value else "can be left out"
    quiet(words, reload_dataloaders_every_epoch=value, max_epochs=3, limit_val_batches=0).fit(model)

    assert model.loads == (3 if value else 1)


def test_accumulate_grad_batches_by_epoch():
    trainer = quiet(
        "GradientAccumulationScheduler", accumulate_grad_batches={0: 1, 1: 2}, max_epochs=2, limit_val_batches=0
    )
    trainer.fit(BoringModel())

    assert has(trainer, GradientAccumulationScheduler).scheduling == {0: 1, 1: 2}
    assert trainer.global_step == 3


# ---- resume


def checkpoint(folder: Path) -> tuple[str, BoringModel]:
    model = BoringModel()
    trainer = L.Trainer(**{**QUIET, **SMALL})
    trainer.fit(model)
    trainer.save_checkpoint(folder / "first.ckpt")
    return str(folder / "first.ckpt"), model


def test_resume_from_checkpoint_goes_on(tmp_path):
    path, _ = checkpoint(tmp_path)

    trainer = quiet("fit(ckpt_path=...)", resume_from_checkpoint=path, max_epochs=3)
    trainer.fit(BoringModel())
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)

    trainer.fit(BoringModel())  # once only
    assert trainer.global_step == 6
    assert trainer.ckpt_path is None


def test_resume_from_checkpoint_leaves_what_a_module_gathers_to_the_program(tmp_path):
    class Gathers(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[int] = []

        def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
            self.batches.append(batch_idx)

    kept = L.Trainer(**{**QUIET, **SMALL, "max_epochs": 1})
    kept.fit(Gathers())
    kept.save_checkpoint(path := tmp_path / "a.ckpt")
    model, trainer = Gathers(), quiet("fit(ckpt_path=...)", resume_from_checkpoint=path, max_epochs=3)
    trainer.fit(model)
    assert len(model.batches) == 2 * trainer.num_training_batches


def test_resume_from_checkpoint_gives_a_test_its_weights(tmp_path):
    path, trained = checkpoint(tmp_path)
    model = BoringModel()

    quiet("fit(ckpt_path=...)", resume_from_checkpoint=path, limit_test_batches=1).test(model, verbose=False)

    assert torch.equal(model.layer.weight, trained.layer.weight)


def test_a_checkpoint_to_resume_from_that_is_not_there_is_an_error():
    trainer = quiet("fit(ckpt_path=...)", resume_from_checkpoint="nowhere.ckpt")

    with pytest.raises(FileNotFoundError, match=r"'nowhere\.ckpt' does not exist"):
        trainer.fit(BoringModel())


# ---- without effect, later, unknown


@pytest.mark.parametrize(
    "arguments",
    [{"amp_backend": "native"}, {"amp_level": "O2"}, {"move_metrics_to_cpu": True}, {"enable_pl_optimizer": True},
     {"auto_lr_find": False}, {"auto_scale_batch_size": None}, {"stochastic_weight_avg": False}, {"tpu_cores": None},
     {"num_processes": 1}, {"truncated_bptt_steps": None}, {"process_position": 0}, {"terminate_on_nan": False},
     {"auto_select_gpus": False}, {"log_gpu_memory": None}, {"track_grad_norm": -1}, {"early_stop_callback": False}],
)  # fmt: skip
def test_what_asks_for_nothing_can_be_left_out(arguments):
    trainer = quiet("can be left out", **arguments)

    assert [type(callback).__module__ for callback in trainer.callbacks] == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("auto_lr_find", "the tuner"),
        ("auto_scale_batch_size", "the tuner"),
        ("stochastic_weight_avg", "weight averaging"),
    ],
)
def test_what_comes_later_says_so(name, part):
    with pytest.raises(MisconfigurationException, match=f"{name}=True asks for {part}, which will come"):
        L.Trainer(**{name: True})


def test_an_argument_that_nobody_knows_is_named():
    with pytest.raises(TypeError, match=r"'max_epoch'.*Did you mean 'max_epochs'"):
        L.Trainer(max_epoch=3)


def test_profiler_true_is_the_simple_one():
    with pytest.raises(MisconfigurationException, match="profiler='simple'"):
        L.Trainer(profiler=True)


def test_several_old_arguments_together_as_a_configuration_file_has_them():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = L.Trainer(
            logger=False, checkpoint_callback=False, gpus=None, num_processes=1, amp_backend="native", amp_level="O2",
            auto_lr_find=False, auto_scale_batch_size=False, auto_select_gpus=False, benchmark=False, max_epochs=1,
            distributed_backend=None, log_gpu_memory=None, max_steps=None, min_steps=None, move_metrics_to_cpu=False,
            overfit_batches=0.0, precision=32, prepare_data_per_node=True, process_position=0, profiler=None,
            progress_bar_refresh_rate=0, reload_dataloaders_every_epoch=False, replace_sampler_ddp=True,
            resume_from_checkpoint=None, stochastic_weight_avg=False, sync_batchnorm=False, terminate_on_nan=False,
            tpu_cores=None, track_grad_norm=-1, truncated_bptt_steps=None, weights_save_path=None, weights_summary=None,
        )  # fmt: skip

    trainer.fit(BoringModel())
    assert trainer.global_step == 64
    assert sum("can be left out" in str(warning.message) for warning in said) == 1


# ---- the verbs


def test_old_keywords_of_the_verbs():
    model, loader = BoringModel(), DataLoader(RandomDataset(32, 4))
    trainer = L.Trainer(**QUIET, max_epochs=1)

    with pytest.warns(UserWarning, match=r"train_dataloader=\.\.\.\) is train_dataloaders= today"):
        trainer.fit(model, train_dataloader=loader)
    assert trainer.global_step == 4
    with pytest.warns(UserWarning, match=r"test_dataloaders=\.\.\.\) is dataloaders= today"):
        trainer.test(model, test_dataloaders=loader, verbose=False)
    assert trainer.num_test_batches == [4]
    with pytest.warns(UserWarning, match="val_dataloaders"):
        trainer.validate(model, val_dataloaders=loader, verbose=False)
    assert trainer.num_val_batches == [4]


def test_a_keyword_that_nobody_knows_is_named_with_the_nearest():
    with pytest.raises(TypeError, match="dataloaders"):
        L.Trainer(**QUIET, **SMALL).test(BoringModel(), dataloder=[])


def test_test_loaders_given_to_fit_are_left_out_with_a_word():
    with pytest.warns(UserWarning, match=r"pass it to trainer\.test"):
        assert translate_call("fit", {"test_dataloaders": [1]}, {"train_dataloaders", "val_dataloaders"}) == {}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gpu", "gpus"),
        ("num_gpus", "gpus"),
        ("max_epoch", "max_epochs"),
        ("early_stopping_callback", "early_stop_callback"),
    ],
)
def test_an_argument_of_no_time_is_an_error_that_names_the_nearest(name, near):
    with pytest.raises(TypeError, match=rf"no argument '{name}'. Did you mean '{near}'"):
        L.Trainer(**{name: 1})
