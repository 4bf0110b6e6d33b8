"""ModelCheckpoint: names, folders, state, and what it may delete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from callbacks.small import QUIET, Scored

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.checkpoint import files, places
from fulmen.errors import MisconfigurationException
from fulmen.loggers import CSVLogger

SCORES = [5.0, 3.0, 4.0, 1.0, 2.0, 6.0]
LOUD = {**QUIET, "enable_checkpointing": True, "max_epochs": 3, "log_every_n_steps": 1}


def run(*, trainer=None, ckpt_path=None, scores=SCORES, **options) -> ModelCheckpoint:
    callback = ModelCheckpoint(**{"dirpath": "c", **options})
    L.Trainer(callbacks=[callback], **{**LOUD, **(trainer or {})}).fit(Scored(scores), ckpt_path=ckpt_path)
    return callback


def kept(folder: str = "c") -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in Path(folder).rglob("*.ckpt")}


# ---- names


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        (None, {}, "epoch=1-step=2"),
        ("{epoch:03d}", {}, "epoch=001"),
        ("{epoch}-{loss:.2f}", {}, "epoch=1-loss=0.12"),
        ("{epoch}/{step}", {}, "epoch=1/step=2"),
        ("e{epoch:02d}_{loss:.1f}", {"auto_insert_metric_name": False}, "e01_0.1"),
        ("{val/acc:.1f}", {"auto_insert_metric_name": False}, "0.5"),
        ("{val.acc}[{epoch}]", {}, "val.acc=3[epoch=1]"),
        ("{epoch}-{epoch}", {}, "epoch=1-epoch=1"),
        ("best", {}, "best"),
        ("{missing}", {}, "missing=0"),
    ],
)
def test_templates_are_filled(template, options, expected):
    metrics = {"epoch": 1, "step": 2, "loss": torch.tensor(0.123), "val/acc": 0.5, "val.acc": 3}
    assert ModelCheckpoint(filename=template, **options).format_checkpoint_name(metrics) == f"{expected}.ckpt"


def test_a_version_a_prefix_and_another_template_can_be_given():
    callback = ModelCheckpoint("c", "{epoch}")
    name = callback.format_checkpoint_name({"epoch": 1}, ver=3, prefix="pre")
    assert name == os.path.join(os.path.realpath("c"), "pre-epoch=1-v3.ckpt")
    assert ModelCheckpoint().format_checkpoint_name({}, filename="x") == "x.ckpt"


def test_a_format_that_does_not_fit_is_named():
    with pytest.raises(MisconfigurationException, match=r"filename='{loss:d}': {loss:d} cannot show 0.5"):
        ModelCheckpoint(filename="{loss:d}").format_checkpoint_name({"loss": 0.5})


def test_an_unknown_metric_in_the_name_is_warned_of_once():
    with pytest.warns(UserWarning, match=r"names 'scor'.*Did you mean 'score'\?") as said:
        run(filename="{epoch}-{scor:.1f}", save_top_k=-1)
    assert kept() == {f"epoch={epoch}-scor=0.0" for epoch in range(3)}
    assert len([warning for warning in said if "'scor'" in str(warning.message)]) == 1


def test_names_of_other_files_are_not_taken():
    run(filename="x", monitor="score", save_top_k=-1)
    assert kept() == {"x", "x-v1", "x-v2"}
    run(filename="x", monitor="score", save_top_k=1)
    assert kept() == {"x", "x-v1", "x-v2", "x-v3"}


def test_the_counter_of_versions_can_be_turned_off():
    callback = run(filename="x", monitor="score", save_top_k=-1, enable_version_counter=False)
    assert kept() == {"x"}
    assert callback.best_k_models == {os.path.realpath("c/x.ckpt"): 4.0}


def test_a_second_run_in_the_folder_leaves_the_first_ones_files():
    run(save_last=True)
    run(save_last=True)
    assert kept() == {"epoch=2-step=12", "epoch=2-step=12-v1", "last", "last-v1"}


# ---- folders


def test_the_folder_is_that_of_the_loggers_run():
    run(dirpath=None, trainer={"logger": CSVLogger("logs", name="n")})
    assert kept("logs/n/version_0/checkpoints") == {"epoch=2-step=12"}


def test_without_a_logger_it_is_in_the_trainers_folder():
    run(dirpath=None, trainer={"default_root_dir": "root"})
    assert kept("root/checkpoints") == {"epoch=2-step=12"}


def test_a_remote_folder_works_as_well():
    callback = run(dirpath="memory://runs/c", monitor="score", save_top_k=2, save_last=True)
    assert callback.best_model_path == "memory://runs/c/epoch=1-step=8.ckpt"
    assert all(places.exists(path) for path in (*callback.best_k_models, callback.last_model_path))
    assert not places.exists("memory://runs/c/epoch=0-step=4.ckpt")


def test_loggers_are_told_of_every_save():
    class Listening(CSVLogger):
        seen = ()

        def after_save_checkpoint(self, checkpoint_callback):
            self.seen = (*self.seen, os.path.basename(checkpoint_callback.best_model_path))

    logger = Listening("logs")
    run(trainer={"logger": logger})
    assert logger.seen == ("epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt")


# ---- state


def test_the_state_in_a_file_is_that_after_the_save():
    callback = run(monitor="score", save_top_k=2, save_last=True)
    for name in ("epoch=2-step=12", "last"):
        (state,) = files.read(f"c/{name}.ckpt")["callbacks"].values()
        expected = callback.state_dict()
        evicted = state["progress"].pop("evicted")
        assert state["progress"] == {
            name: value for name, value in expected.pop("progress").items() if name != "evicted"
        }
        assert {name: value for name, value in state.items() if name != "progress"} == expected
        assert [os.path.basename(path) for path in evicted] == ["epoch=0-step=4.ckpt"]


def test_the_state_key_tells_settings_apart():
    assert ModelCheckpoint(monitor="v", mode="max").state_key == (
        "ModelCheckpoint{'monitor': 'v', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
        "'train_time_interval': None}"
    )


@pytest.mark.parametrize("options", [{}, {"monitor": "score", "save_top_k": 2}], ids=str)
def test_a_resumed_run_ends_with_the_files_of_an_uninterrupted_one(options):
    def fit(folder, epochs, scores, ckpt_path=None):
        callback = ModelCheckpoint(folder, save_last=True, **options)
        L.Trainer(callbacks=[callback], **{**LOUD, "max_epochs": epochs}).fit(Scored(scores), ckpt_path=ckpt_path)
        return callback

    whole = fit("whole", 5, SCORES)
    fit("parts", 3, SCORES)
    parts = fit("parts", 5, SCORES[3:], ckpt_path="parts/last.ckpt")
    assert kept("parts") == kept("whole")
    assert [s.item() for s in parts.best_k_models.values()] == [s.item() for s in whole.best_k_models.values()]
    assert os.path.basename(parts.best_model_path) == os.path.basename(whole.best_model_path)


def test_last_means_the_newest_whole_file_of_the_run():
    run(save_last=True)
    bad = Path("c/epoch=2-step=12.ckpt")
    bad.write_bytes(bad.read_bytes()[:-50])
    trainer = L.Trainer(callbacks=[ModelCheckpoint("c", save_last=True)], **{**LOUD, "max_epochs": 4})
    with pytest.warns(UserWarning, match=r"Skipped: '.*step=12.ckpt' is truncated"):
        trainer.fit(Scored(SCORES), ckpt_path="last")
    assert trainer.ckpt_path == os.path.realpath("c/last.ckpt")
    assert trainer.global_step == 16


def test_what_a_kill_between_save_and_deletion_left_is_deleted_by_the_resumed_run():
    run(save_last=True, trainer={"max_epochs": 1})
    old = Path("c/epoch=0-step=4.ckpt").read_bytes()
    run(save_last=True, trainer={"max_epochs": 2}, ckpt_path="last")
    Path("c/epoch=0-step=4.ckpt").write_bytes(old)
    Path("c/.last.ckpt.elsewhere.1.partial").touch()
    os.utime("c/.last.ckpt.elsewhere.1.partial", (1, 1))
    run(save_last=True, trainer={"max_epochs": 3}, ckpt_path="c/last.ckpt")
    assert sorted(os.listdir("c")) == ["epoch=2-step=12.ckpt", "last.ckpt"]


def forge(**state) -> str:
    """A checkpoint of a run whose callback's state says what a stranger wants."""
    run(monitor="score", save_last=True, trainer={"max_epochs": 1})
    checkpoint = files.read("c/last.ckpt")
    (callback,) = checkpoint["callbacks"].values()
    callback.update(state)
    files.write(checkpoint, "c/last.ckpt")
    return "c/last.ckpt"


def test_a_restored_state_cannot_have_files_elsewhere_deleted():
    Path("precious.ckpt").write_text("mine")
    outside = [os.path.realpath("precious.ckpt"), os.path.realpath("c") + "/../precious.ckpt"]
    path = forge(
        best_k_models={outside[0]: torch.tensor(99.0)}, last_model_path=outside[1], kth_best_model_path=outside[0],
        progress={"evicted": outside},
    )  # fmt: skip
    run(monitor="score", save_last=True, ckpt_path=path, scores=SCORES[1:])
    assert Path("precious.ckpt").read_text() == "mine"


def test_only_checkpoints_are_deleted():
    Path("c").mkdir()
    Path("c/notes.txt").write_text("mine")
    run(
        monitor="score",
        ckpt_path=forge(best_k_models={os.path.realpath("c/notes.txt"): torch.tensor(99.0)}),
        scores=SCORES[1:],
    )
    assert Path("c/notes.txt").read_text() == "mine"


def test_in_another_folder_only_the_best_path_is_taken_over():
    run(monitor="score", save_last=True, trainer={"max_epochs": 1})
    with pytest.warns(UserWarning, match=r"saves in '.*other' now, before in '.*c'"):
        callback = run(dirpath="other", monitor="score", ckpt_path="c/last.ckpt", scores=[9.0, 8.0])
    assert kept("c") == {"epoch=0-step=4", "last"}
    assert kept("other") == {"epoch=2-step=12"}
    assert list(callback.best_k_models) == [os.path.realpath("other/epoch=2-step=12.ckpt")]


def test_fewer_kept_files_than_before_leave_the_surplus_alone():
    run(monitor="score", save_top_k=3, save_last=True)
    callback = run(monitor="score", save_top_k=1, trainer={"max_epochs": 4}, ckpt_path="c/last.ckpt", scores=SCORES[3:])
    assert [score.item() for score in callback.best_k_models.values()] == [1.0]
    assert kept() == {"epoch=0-step=4", "epoch=2-step=12", "epoch=3-step=16", "last"}


def test_a_save_that_fails_is_not_remembered():
    class Full(ModelCheckpoint):
        def on_validation_end(self, trainer, pl_module):
            if trainer.global_step == 8:  # the folder turns into a file
                os.rename("c", "moved")
                Path("c").write_text("")
            super().on_validation_end(trainer, pl_module)

    callback = Full("c", monitor="score", save_on_train_epoch_end=False)
    with pytest.raises(OSError, match=r"epoch=1-step=8.ckpt' could not be saved: .* Older checkpoints are untouched"):
        L.Trainer(callbacks=[callback], **LOUD).fit(Scored(SCORES))
    assert kept("moved") == {"epoch=0-step=4"}
    assert [os.path.basename(path) for path in callback.best_k_models] == ["epoch=0-step=4.ckpt"]


def test_weights_only_files_have_no_optimizer():
    run(save_weights_only=True)
    assert "optimizer_states" not in files.read("c/epoch=2-step=12.ckpt")


def test_verbose_says_what_was_saved(caplog):
    run(verbose=True, monitor="score")
    assert "Epoch 1, global step 8: saved '" in caplog.text
    assert "epoch=1-step=8.ckpt' with score=3.00000" in caplog.text


def test_scores_can_be_written_as_yaml():
    callback = run(monitor="score", save_top_k=2)
    callback.to_yaml()
    assert sorted(yaml.safe_load(Path("c/best_k_models.yaml").read_text()).values()) == [3.0, 4.0]
