"""Each old argument does what it did, and says once how it is spelled today."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from fulmen.compat.arguments import translate_call
from fulmen.demos import BoringModel, RandomDataset
from fulmen.errors import MisconfigurationException, NonFiniteError
from fulmen.loggers import CSVLogger

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}
SMALL = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}

pytestmark = pytest.mark.filterwarnings("ignore::fulmen.warn.PossibleUserWarning")


def then(notice: str, **arguments: Any) -> L.Trainer:
    """A Trainer from old arguments; its notices must say `notice`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = L.Trainer(**arguments)
    texts = [str(warning.message) for warning in said]
    assert any(notice in text for text in texts), texts
    return trainer


def quiet(notice: str, **arguments: Any) -> L.Trainer:
    return then(notice, **{**QUIET, **SMALL, **arguments})


def has(trainer: L.Trainer, kind: type) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


# ---- devices


@pytest.mark.parametrize("value", [0, None, [], "0,0"[:0]])
def test_gpus_nothing_is_the_cpu(value):
    arguments = {**QUIET, **SMALL, "gpus": value, "accelerator": "auto"}

    assert then("accelerator='cpu'", **arguments).strategy.root_device == torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "words"),
    [(8, "gpus=8 asks for 8 GPUs"), ("0", "the GPUs [0]"), ("0,1", "the GPUs [0, 1]"), ([1], "the GPUs [1]"),
     (-1, "all GPUs"), ("3", "3 GPUs")],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with GPUs")
def test_gpus_that_are_not_here_are_an_error_that_says_what_was_asked_and_found(value, words):
    with pytest.raises(MisconfigurationException) as error:
        L.Trainer(gpus=value)

    assert words in str(error.value)
    assert "no GPU" in str(error.value)
    assert "FULMEN_DEVICES=available" in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with GPUs")
@pytest.mark.parametrize("arguments", [{"gpus": 8}, {"tpu_cores": 8}, {"gpus": 2, "distributed_backend": "ddp"}])
def test_on_request_it_runs_on_what_there_is(monkeypatch, arguments):
    monkeypatch.setenv("FULMEN_DEVICES", "available")

    trainer = then(
        "FULMEN_DEVICES=available runs this on the CPU", **{**QUIET, **SMALL, "accelerator": "auto"}, **arguments
    )

    assert trainer.strategy.root_device == torch.device("cpu")
    assert trainer.num_devices == 1


def test_gpus_auto_takes_what_there_is():
    trainer = then("accelerator='auto', devices='auto'", **{**QUIET, **SMALL, "accelerator": "auto", "gpus": "auto"})

    assert trainer.num_devices >= 1


def test_gpus_in_words_that_are_no_number_are_an_error():
    with pytest.raises(MisconfigurationException, match="gpus='two' must be a number"):
        L.Trainer(gpus="two")


@pytest.mark.parametrize("name", ["tpu_cores", "num_tpu_cores", "ipus"])
def test_other_hardware_is_an_error(name):
    with pytest.raises(MisconfigurationException, match=f"{name}=8 asks for"):
        L.Trainer(**{name: 8})


@pytest.mark.parametrize("name", ["accelerator", "distributed_backend"])
def test_ddp_cpu_is_processes_on_the_cpu(name):
    arguments = {**QUIET, **SMALL, "accelerator": "auto", "num_processes": 2, name: "ddp_cpu"}

    trainer = then("strategy='ddp_spawn'", **arguments)

    assert trainer.strategy.name == "ddp_spawn"
    assert (trainer.num_devices, trainer.strategy.root_device.type) == (2, "cpu")


def test_num_processes_alone_is_processes_on_the_cpu():
    trainer = then("devices=2", **{**QUIET, **SMALL, "accelerator": "auto"}, num_processes=2)

    assert trainer.num_devices == 2


@pytest.mark.parametrize(
    "arguments", [{"accelerator": "ddp"}, {"distributed_backend": "ddp"}, {"distributed_backend": "ddp_sharded"}]
)
def test_ddp_without_gpus_was_one_process_on_the_cpu(arguments):
    trainer = then("strategy='ddp'", **{**QUIET, **SMALL, "accelerator": "auto", **arguments})

    assert (trainer.strategy.name, trainer.num_devices, trainer.strategy.root_device.type) == ("ddp", 1, "cpu")


def test_dp_on_one_device_is_that_device():
    trainer = quiet("strategy='auto'", distributed_backend="dp", gpus=0)

    assert trainer.strategy.name == "single_device"


def test_dp_on_several_devices_names_the_way_out():
    with pytest.raises(MisconfigurationException, match="strategy='ddp' with the batch size divided"):
        L.Trainer(distributed_backend="dp", devices=2)


@pytest.mark.parametrize("word", ["horovod", "bagua"])
def test_backends_that_are_gone_say_so(word):
    with pytest.raises(MisconfigurationException, match=r"left Lightning in 2\.0"):
        L.Trainer(distributed_backend=word)


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


# ---- callbacks


@pytest.mark.parametrize("value", [True, False])
def test_checkpoint_callback_as_a_switch(value):
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_checkpointing"}

    trainer = then(f"enable_checkpointing={value}", **arguments, **SMALL, checkpoint_callback=value)

    assert (has(trainer, ModelCheckpoint) is not None) == value


def test_checkpoint_callback_as_an_object(tmp_path):
    kept = ModelCheckpoint(dirpath=tmp_path, filename="mine")

    trainer = quiet("callbacks=[...]", checkpoint_callback=kept, enable_checkpointing=None)
    trainer.fit(BoringModel())

    assert trainer.checkpoint_callbacks == [kept]
    assert (tmp_path / "mine.ckpt").exists()


def test_early_stop_callback_as_a_switch_watches_val_loss():
    class Worse(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))

    trainer = quiet("callbacks=[...]", early_stop_callback=True, max_epochs=9)
    trainer.fit(Worse())

    assert trainer.current_epoch == 4
    assert has(trainer, EarlyStopping).patience == 3


def test_early_stop_callback_as_an_object():
    stopping = EarlyStopping("x")

    assert has(quiet("callbacks=[...]", early_stop_callback=stopping), EarlyStopping) is stopping


@pytest.mark.parametrize(("value", "depth"), [("top", 1), ("full", -1), (None, None)])
def test_weights_summary(value, depth):
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_model_summary"}
    words = "enable_model_summary=False" if value is None else f"ModelSummary(max_depth={depth})"

    summary = has(then(words, **arguments, **SMALL, weights_summary=value), ModelSummary)

    assert (
        (summary and summary._max_depth) == depth
        if hasattr(summary, "_max_depth")
        else (summary is None) == (depth is None)
    )


def test_weights_summary_in_another_word_is_an_error():
    with pytest.raises(MisconfigurationException, match="weights_summary='bottom' must be"):
        L.Trainer(weights_summary="bottom")


def test_progress_bar_refresh_rate():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}

    bar = has(
        then("refresh_rate=20", **arguments, **SMALL, progress_bar_refresh_rate=20, process_position=1), TQDMProgressBar
    )
    none = then("enable_progress_bar=False", **arguments, **SMALL, progress_bar_refresh_rate=0)

    assert (bar.refresh_rate, bar.process_position) == (20, 1)
    assert none.progress_bar_callback is None


def test_progress_bar_callback():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}
    bar = RichProgressBar()

    assert then("callbacks=[...]", **arguments, **SMALL, progress_bar_callback=bar).progress_bar_callback is bar
    assert then("=False", **arguments, **SMALL, progress_bar_callback=False).progress_bar_callback is None


def test_show_progress_bar():
    arguments = {name: argument for name, argument in QUIET.items() if name != "enable_progress_bar"}

    assert then("=False", **arguments, **SMALL, show_progress_bar=False).progress_bar_callback is None


class Losses(BoringModel):
    """Its loss is `value` in the third batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def training_step(self, batch, batch_idx):
        return self.step(batch) * (self.value if batch_idx == 2 else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_terminate_on_nan_stops_before_the_step(value):
    trainer = quiet("nonfinite='stop'", terminate_on_nan=True, limit_train_batches=5)

    with pytest.raises(NonFiniteError, match="batch 2"):
        trainer.fit(Losses(value))
    assert trainer.global_step == 2


def test_print_nan_grads_names_the_parameter_and_goes_on():
    trainer = quiet("nonfinite='warn'", print_nan_grads=True, limit_train_batches=4)

    with pytest.warns(UserWarning, match=r"the gradient of layer\.weight"):
        trainer.fit(Losses(math.nan))
    assert trainer.global_step == 4


@pytest.mark.parametrize("norm", [2, "inf"])
def test_track_grad_norm_logs_the_norms(norm):
    trainer = quiet("grad_norm", track_grad_norm=norm)
    trainer.fit(BoringModel())

    prefix = f"grad_{float(norm)}_norm"
    assert {f"{prefix}_total", f"{prefix}/layer.weight", f"{prefix}/layer.bias"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics[f"{prefix}_total"] > 0


def test_track_grad_norm_leaves_the_logging_to_the_module():
    class Own(BoringModel):
        def log_grad_norm(self, grad_norm_dict):
            self.log("mine", grad_norm_dict["grad_2.0_norm_total"])

    trainer = quiet("grad_norm", track_grad_norm=2)
    trainer.fit(Own())

    assert "mine" in trainer.callback_metrics
    assert "grad_2.0_norm_total" not in trainer.callback_metrics


@pytest.mark.parametrize("name", ["flush_logs_every_n_steps", "log_save_interval"])
def test_loggers_write_every_n_steps(name, tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1000)
    rows = []

    class Watching(BoringModel):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch)
            self.log("loss", loss)
            return loss

        def on_train_batch_start(self, batch, batch_idx):
            file = Path(logger.log_dir, "metrics.csv")
            rows.append(len(file.read_text().splitlines()) if file.exists() else 0)

    arguments = {**QUIET, "logger": logger}
    trainer = then("logger.save()", **arguments, max_epochs=1, limit_train_batches=5, limit_val_batches=0,
                   log_every_n_steps=1, **{name: 2})  # fmt: skip
    trainer.fit(Watching())

    assert rows[1] == 0
    assert rows[4] >= 3


@pytest.mark.gpu
def test_log_gpu_memory(tmp_path):
    arguments = {**QUIET, **SMALL, "logger": CSVLogger(tmp_path), "accelerator": "gpu", "log_every_n_steps": 1}
    then("DeviceStatsMonitor", **arguments, devices=1, log_gpu_memory="min_max").fit(BoringModel())

    assert "max_gpu_mem" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_log_gpu_memory_without_a_gpu_logs_nothing():
    trainer = quiet("DeviceStatsMonitor", log_gpu_memory="all")
    trainer.fit(BoringModel())

    assert trainer.global_step == 2


def test_weights_save_path_takes_the_checkpoints_only(tmp_path):
    arguments = {
        **QUIET,
        **SMALL,
        "enable_checkpointing": True,
        "logger": CSVLogger(tmp_path / "logs", name="run", version=3),
    }
    then("dirpath", **arguments, weights_save_path=tmp_path / "weights").fit(BoringModel())

    assert len(list((tmp_path / "weights" / "run" / "version_3" / "checkpoints").glob("*.ckpt"))) == 1
    assert not list((tmp_path / "logs").rglob("*.ckpt"))


@pytest.mark.parametrize(("mode", "steps"), [("min_size", 2), ("max_size_cycle", 4)])
@pytest.mark.parametrize("passed", [True, False])
def test_multiple_trainloader_mode(mode, steps, passed):
    loaders = [DataLoader(RandomDataset(32, 2)), DataLoader(RandomDataset(32, 4))]

    class Two(BoringModel):
        def training_step(self, batch, batch_idx):
            return self.step(batch[0]) + self.step(batch[1])

        def train_dataloader(self):
            return loaders

    words = "CombinedLoader" if mode == "min_size" else "can be left out"
    trainer = quiet(words, multiple_trainloader_mode=mode, limit_train_batches=1.0, limit_val_batches=0)
    trainer.fit(Two(), loaders if passed else None)

    assert trainer.global_step == steps


def test_automatic_optimization_of_the_trainer():
    class Manual(BoringModel):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.step(batch))
            optimizer.step()

    trainer = quiet("self.automatic_optimization", automatic_optimization=False)
    trainer.fit(Manual())

    assert trainer.global_step == 2


def test_truncated_bptt_steps_cuts_sequences_and_steps_after_each_part():
    class Recurrent(BoringModel):
        def __init__(self):
            super().__init__()
            self.seen = []

        def training_step(self, batch, batch_idx, hiddens):
            self.seen.append((tuple(batch.shape), None if hiddens is None else hiddens.item()))
            return {"loss": self.step(batch), "hiddens": torch.tensor(float(len(self.seen)))}

    model = Recurrent()
    steps = []
    model.on_before_optimizer_step = lambda optimizer: steps.append(optimizer)
    trainer = quiet("self.truncated_bptt_steps = 2", truncated_bptt_steps=2, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, DataLoader(torch.randn(1, 5, 32)))

    assert model.seen == [((1, 2, 32), None), ((1, 2, 32), 1.0), ((1, 1, 32), 2.0)]
    assert len(steps) == 3
    assert trainer.global_step == 1


def test_prepare_data_per_node():
    assert quiet("can be left out", prepare_data_per_node=True)
    L.Trainer(**QUIET, **SMALL, prepare_data_per_node=False)  # on one node the same
    with pytest.raises(MisconfigurationException, match=r"self\.prepare_data_per_node = False"):
        L.Trainer(num_nodes=2, prepare_data_per_node=False)


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
