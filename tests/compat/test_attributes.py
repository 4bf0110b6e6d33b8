"""Old attributes are read on a miss, each said once with today's spelling."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

import fulmen as L
from fulmen.compat import names
from fulmen.demos import BoringModel

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_train_batches": 3, "limit_val_batches": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def trainer() -> L.Trainer:
    trainer = L.Trainer(**QUIET, max_epochs=2)
    trainer.fit(BoringModel())
    return trainer


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_gpus", 0), ("gpus", None), ("root_gpu", None), ("data_parallel_device_ids", None), ("num_processes", 1),
        ("devices", 1), ("tpu_cores", None), ("ipus", None), ("on_gpu", False), ("on_cpu", True), ("on_tpu", False),
        ("use_dp", False), ("use_ddp", False), ("use_ddp2", False), ("use_tpu", False), ("use_horovod", False),
        ("use_amp", False), ("amp_backend", None), ("data_parallel", False), ("proc_rank", 0), ("max_nb_epochs", 2),
        ("min_nb_epochs", None), ("nb_gpu_nodes", 1), ("batch_idx", 2), ("total_batch_idx", 5),
        ("running_sanity_check", False),
        ("disable_validation", True), ("progress_bar_dict", {"loss": "nan"}), ("slurm_job_id", None),
        ("terminate_on_nan", True),
        ("track_grad_norm", False), ("weights_summary", None), ("resume_from_checkpoint", None), ("tuning", False),
        ("should_rank_save_checkpoint", True), ("tested_ckpt_path", None), ("optimizer_frequencies", []),
    ],
)  # fmt: skip
def test_what_the_trainer_had(trainer, name, value):
    assert getattr(trainer, name) == value


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_parts_of_the_trainer_under_their_old_names(trainer):
    assert trainer.get_model() is trainer.lightning_module
    assert trainer.training_type_plugin is trainer.strategy
    assert trainer.accelerator_connector.is_distributed is False
    assert trainer.lr_schedulers[0]["scheduler"] is trainer.lr_scheduler_configs[0].scheduler
    assert trainer.lr_schedulers[0]["interval"] == "epoch"
    assert trainer.weights_save_path == trainer.default_root_dir


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_the_loader_of_training_before_it_is_made():
    class Counting(BoringModel):
        def setup(self, stage):
            source = self.trainer._data_connector._train_dataloader_source
            self.seen = [len(source.dataloader().dataset), source.instance is self]

    given, own = Counting(), Counting()
    L.Trainer(**QUIET, max_epochs=0).fit(given, own.val_dataloader())
    trainer = L.Trainer(**QUIET, max_epochs=0)
    trainer.fit(own)

    assert given.seen == [64, False]
    assert own.seen == [64, True]
    assert trainer.data_connector.datamodule is None


def test_the_notice_names_todays_spelling(trainer):
    with pytest.warns(UserWarning, match=r"trainer\.get_model is trainer\.lightning_module today"):
        trainer.get_model()


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_loading_the_training_data_early_tells_how_many_batches_there_are():
    class Counting(BoringModel):
        def configure_optimizers(self):
            self.trainer.reset_train_dataloader(self)
            self.batches = self.trainer.num_training_batches
            return super().configure_optimizers()

    model = Counting()
    L.Trainer(**QUIET, max_epochs=1).fit(model)

    assert model.batches == 3


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_the_training_loop_tells_where_it_stands():
    def seen(trainer):
        loop = trainer.fit_loop
        batches, epochs = loop.epoch_loop.batch_progress, loop.epoch_progress
        return (
            loop.global_step, loop.current_epoch, loop.total_batch_idx, loop.epoch_loop._batches_that_stepped,
            batches.current.ready, batches.current.completed, batches.total.ready, batches.is_last_batch,
            epochs.current.ready, epochs.current.completed,
        )  # fmt: skip

    class Asking(BoringModel):
        def on_train_start(self):
            self.seen = [seen(self.trainer)]
            self.trainer.fit_loop.setup_data()

        def training_step(self, batch, batch_idx):
            self.seen.append(seen(self.trainer))
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self):
            self.seen.append(seen(self.trainer))

    model = Asking()
    trainer = L.Trainer(**(QUIET | {"limit_train_batches": 2}), max_epochs=2)
    trainer.fit(model)

    assert model.seen == [
        (0, 0, -1, 0, 0, 0, 0, False, 1, 0),
        (0, 0, 0, 0, 1, 0, 1, False, 1, 0), (1, 0, 1, 1, 2, 1, 2, True, 1, 0), (2, 0, 1, 2, 2, 2, 2, True, 1, 0),
        (2, 1, 2, 2, 1, 0, 3, False, 2, 1), (3, 1, 3, 3, 2, 1, 4, True, 2, 1), (4, 1, 3, 4, 2, 2, 4, True, 2, 1),
    ]  # fmt: skip
    assert trainer.fit_loop.epoch_progress.current.completed == 2
    assert trainer.fit_loop.epoch_progress.current.ready == 2
    assert trainer.fit_loop.done
    assert not trainer.fit_loop.restarting
    assert not hasattr(trainer.fit_loop, "nothing")


def test_the_other_loops_are_there():
    trainer = L.Trainer(**QUIET, limit_predict_batches=2, max_epochs=1)
    trainer.predict(BoringModel())

    assert len(trainer.predict_loop.predictions) == 2


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_tune_has_nothing_to_do_and_the_tuner_comes_later(trainer):
    assert trainer.tune(BoringModel()) == {}
    with pytest.raises(AttributeError, match="tuner is not part of Fulmen yet"):
        trainer.tuner.lr_find(BoringModel())


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_parts_of_the_trainer_that_did_one_thing(trainer):
    assert trainer.logger_connector is trainer
    assert trainer.checkpoint_connector.dump_checkpoint()["global_step"] == 6
    assert "optimizer_states" not in trainer._checkpoint_connector.dump_checkpoint(weights_only=True)


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_loading_validation_data_early_and_calling_hooks():
    class Early(BoringModel):
        called = 0

        def on_train_start(self):
            self.trainer.reset_val_dataloader(self)
            self.batches = self.trainer.num_val_batches
            self.trainer.call_hook("on_train_epoch_start")

        def on_train_epoch_start(self):
            self.called += 1

    model = Early()
    L.Trainer(**QUIET | {"limit_val_batches": 2}, max_epochs=1).fit(model)

    assert model.batches == [2]
    assert model.called == 2


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_the_manual_step_that_cleared_the_gradients():
    class Manual(BoringModel):
        automatic_optimization = False
        cleared = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.manual_backward(self.step(batch))
            self.manual_optimizer_step(optimizer, force_optimizer_step=True)
            self.cleared = self.layer.weight.grad is None

    model = Manual()
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(model)

    assert model.cleared
    assert trainer.global_step == 3


def test_what_comes_later_says_so():
    with pytest.raises(AttributeError, match="Writing of predictions is not part of Fulmen yet"):
        BoringModel().write_prediction("x", 1)


def test_what_never_was_is_an_attribute_error_with_the_nearest_name(trainer):
    with pytest.raises(AttributeError, match=r"'Trainer' object has no attribute 'globl_step'.*'global_step'"):
        trainer.globl_step  # noqa: B018
    assert not hasattr(trainer, "anything")
    with pytest.raises(AttributeError, match="'BoringModel' object has no attribute 'layr'"):
        BoringModel().layr  # noqa: B018


def test_asking_for_what_is_not_there_looks_for_no_resembling_name(trainer):
    called = set()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_code.co_filename))
    try:
        found = [hasattr(one, "anything") for one in (trainer, trainer.fit_loop, BoringModel())]
    finally:
        sys.setprofile(None)

    assert found == [False] * 3
    assert not [path for path in called if "difflib" in path]


@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_what_the_module_had():
    class Asking(BoringModel):
        def on_train_start(self):
            self.seen = [self.use_ddp, self.use_dp, self.use_amp, self.precision, self.datamodule]

        def on_after_backward(self):
            self.norm = self.grad_norm(2)["grad_2.0_norm_total"]

    model = Asking()
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(model)

    assert model.seen == [False, False, False, "32-true", None]
    assert model.norm > 0
    assert model.summarize(mode="full").total_parameters == 66
    home = names.home("core.memory", "ModelSummary")
    assert len(str(names.load(home)(model, mode="full"))) >= len(str(names.load(home)(model, "top"))) > 0
    assert math.isclose(model.model_size, 66 * 4e-6)


def test_a_module_without_a_trainer_has_no_datamodule():
    assert not hasattr(BoringModel(), "datamodule")


def test_todays_programs_hear_nothing_of_it(recwarn):
    torch.manual_seed(0)
    model = BoringModel()
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(model)

    assert not [warning for warning in recwarn if " today" in str(warning.message)]


@pytest.mark.parametrize(
    ("assign", "batches", "epochs"),
    [
        ("max_epochs = 3", 9, [0, 1, 2]),
        ("epoch_loop.max_steps = 4", 4, [0, 1]),
        ("epoch_progress.current.processed = 1", 3, [1]),
    ],
)
@pytest.mark.filterwarnings("ignore:.* today:UserWarning")
def test_the_training_loop_may_be_told_before_the_first_fit(assign, batches, epochs):
    class Counting(BoringModel):
        def training_step(self, batch, batch_idx):
            seen.append(self.current_epoch)
            return super().training_step(batch, batch_idx)

    seen: list[int] = []
    trainer = L.Trainer(**QUIET, max_epochs=2)
    exec(f"trainer.fit_loop.{assign}")
    trainer.fit(Counting())

    assert (len(seen), sorted({*seen})) == (batches, epochs)


def test_the_training_loop_before_the_first_fit_tells_its_limits():
    loop = L.Trainer(**QUIET, max_epochs=2).fit_loop

    assert (loop.max_epochs, loop.epoch_loop.global_step, loop.epoch_progress.current.completed) == (2, 0, 0)
    assert not hasattr(loop, "nothing")


def test_there_is_a_profiler_that_does_nothing():
    with pytest.warns(UserWarning, match="not there yet"), L.Trainer(**QUIET, max_epochs=1).profiler.profile("step"):
        pass
