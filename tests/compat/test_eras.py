"""Whole programs as people wrote them for each era, run unchanged: each prints what it has reached."""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
from compat.programs import command

PROGRAMS = Path(__file__).parent / "eras"
EVERY_HOOK = [
    "backward", "configure_gradient_clipping", "lr_scheduler_step", "on_before_optimizer_step", "optimizer_step",
    "optimizer_zero_grad",
]  # fmt: skip
slow = pytest.mark.slow

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")


def result(era: str, program: str) -> dict[str, Any]:
    """What follows "RESULT" in the program's last line."""
    done = command(["-m", "fulmen", "run", str(PROGRAMS / f"era_{era}" / f"{program}.py")])
    assert done.returncode == 0, done.stderr[-3000:]
    return literal_eval(done.stdout.splitlines()[-1].removeprefix("RESULT "))


def test_every_program_is_short():
    lengths = {path: path.read_text().count("\n") for path in PROGRAMS.glob("*/*.py")}

    assert len(lengths) == 15
    assert not [path for path, length in lengths.items() if length >= 80]


# ---- a classifier with metrics and early stopping


@slow
def test_classifier_of_0_7():
    """Returned dicts, hparams, validation_end, early_stop_callback, load_from_metrics; the best checkpoint is kept."""
    reached = result("0_7", "classifier")

    assert reached["accuracy"] > 0.93
    assert reached["epochs"] < 50
    assert [path.endswith(f"epoch={reached['epochs'] - 4}-val_loss=0.12.ckpt") for path in reached["saved"]] == [True]


@slow
def test_classifier_of_1_0():
    """self.log, pl.metrics, a command line, DataModule.dims, checkpoint_callback=, best_model_path."""
    reached = result("1_0", "classifier")

    assert reached["test_acc"] == reached["test_f1"] > 0.92
    assert reached["epochs"] < 40
    assert reached["seen"] == 300
    assert reached["hparams"] == {"input_dim": 64, "hidden_dim": 64, "learning_rate": 0.02}


@slow
def test_classifier_of_1_5():
    """torchmetrics as attributes, *_epoch_end(outputs), configure_callbacks, several loggers, gpus=0."""
    reached = result("1_5", "classifier")

    assert reached["test/acc"] > 0.92
    assert reached["best"] > 0.95
    assert reached["gpus"] == 0
    assert reached["lr"] < 0.02


@slow
def test_classifier_of_1_9():
    """from_argparse_args, estimated_stepping_batches, MetricCollection, track_grad_norm, predict."""
    reached = result("1_9", "classifier")

    assert reached["test_acc"] > 0.92
    assert reached["predicted"] == 300
    assert reached["norms"] is True


@slow
def test_classifier_of_2_x():
    reached = result("2_x", "classifier")

    assert reached["test/acc"] > 0.92
    assert reached["epochs"] < 40
    assert reached["predicted"] == (300,)


# ---- a GAN with two optimizers, for points around (2, -1); it starts near (0, 0)


def near(mean: list[float]) -> bool:
    return ((mean[0] - 2) ** 2 + (mean[1] + 1) ** 2) ** 0.5 < 0.8


@slow
def test_gan_of_0_7():
    """optimizer_step that leaves out steps, without a closure; on_epoch_end; the bar's dict."""
    reached = result("0_7", "gan")

    assert near(reached["mean"])
    assert reached["turns"] == [320, 640]
    assert reached["metrics"] == ["d_loss", "g_loss"]


@slow
def test_gan_of_1_0():
    """optimizer_idx with frequencies, outputs in the batches' order, accelerator=None, amp_level=."""
    reached = result("1_0", "gan")

    assert near(reached["mean"])
    assert reached["turns"] == [640, 1280]
    assert reached["sizes"] == 48
    assert reached["steps"] == 1920
    assert reached["metrics"] == ["d_loss_epoch", "d_loss_step", "g_loss"]
    assert reached["bar"] == [*reached["metrics"], "loss", "v_num"]


@slow
def test_gan_of_1_5():
    """training_step_end, toggle_optimizer with the index, a closure that may be left out, last_model_path."""
    reached = result("1_5", "gan")

    assert near(reached["mean"])
    assert reached["steps"] == [300, 800]
    assert reached["toggled"] == ["0", "1"]
    assert reached["lrs"] == [round(0.005 * 0.93**50, 6)] * 2
    assert {"c_loss_epoch", "g_loss_step", "x"} <= set(reached["metrics"])


def test_gan_of_1_9():
    """Every hook that had the optimizer's index has it."""
    reached = result("1_9", "gan")

    assert near(reached["mean"])
    assert reached["called"] == EVERY_HOOK
    assert {"loss_0_epoch", "loss_1_step", "norm", "lr-Adam-1"} <= set(reached["metrics"])


@slow
def test_gan_of_2_x():
    """Manual optimization."""
    reached = result("2_x", "gan")

    assert near(reached["mean"])
    assert reached["steps"] == 1280
    assert reached["lrs"] == [round(0.004 * 0.97**40, 6)] * 2


# ---- an autoencoder with callbacks, and a run that goes on from a checkpoint as if it had not stopped


def falls(losses: list[float]) -> bool:
    return losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 1.7


@slow
def test_autoencoder_of_0_7():
    """resume_from_checkpoint, filepath=, period=, on_batch_end, warm-up in an optimizer_step without a closure."""
    reached = result("0_7", "autoencoder")

    assert falls(reached["whole"])
    assert reached["rest"] == reached["whole"][2:]


@slow
def test_autoencoder_of_1_0():
    """TrainResult and EvalResult, accumulate_grad_batches by epoch, state returned by on_save_checkpoint."""
    reached = result("1_0", "autoencoder")

    assert falls(reached["whole"])
    assert reached["rest"] == reached["whole"][2:]
    assert reached["counts"] == [100, 100]
    assert reached["tests"][0] == reached["tests"][1]
    assert reached["monitor"] == "checkpoint_on"


@slow
def test_autoencoder_of_1_5():
    """fit(ckpt_path=), hooks of datamodules for checkpoints, several validation loaders, fit_loop's counters."""
    reached = result("1_5", "autoencoder")

    assert falls(reached["whole"])
    assert (reached["before"], reached["rest"]) == (reached["whole"][:2], reached["whole"][2:])
    assert (reached["loaded"], reached["batches"]) == ([4, 4], [100, 100])
    assert (reached["starts"], reached["sane"]) == ([1], [1, 0])


@slow
def test_autoencoder_of_1_9():
    """A checkpoint from the last validation of an epoch, whose training_epoch_end is still to come."""
    reached = result("1_9", "autoencoder")

    assert falls(reached["whole"])
    assert reached["rest"] == reached["whole"][4:]
    assert reached["noise"]
    assert (reached["seen"], reached["steps"]) == ([6000, 6000], [90, 90])


@slow
def test_autoencoder_of_2_x():
    """A checkpoint from the middle of an epoch."""
    reached = result("2_x", "autoencoder")

    assert falls(reached["whole"])
    assert reached["rest"] == reached["whole"][1:]
    assert (reached["batches"], reached["started_at"]) == ([120, 120], 40)
    assert reached["same"]
