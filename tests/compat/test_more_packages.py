"""Names below Lightning's own documentation that packages built on it import, call and override."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compat.programs import lines
from small import Net, make_trainer, numbers

from fulmen.compat import install

PACKAGE = """
    import functools
    import torch
    from lightning.pytorch.core.saving import get_filesystem
    from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
    from lightning.pytorch.utilities.rank_zero import rank_prefixed_message
    from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature as takes

    for devices in ("auto", 1, "2"):
        connector = _AcceleratorConnector(accelerator="cpu", devices=devices)
        print(connector._accelerator_flag, connector._devices_flag)
    print(rank_prefixed_message("done", 1), rank_prefixed_message("done", None))
    print(get_filesystem(".").exists("program.py"))

    class Callback:
        def named(self, trainer, batch): ...
        def any(self, *args): ...
        @functools.wraps(named)
        def wrapped(self, *args, **kwargs): ...

    for hook in (Callback.named, Callback().wrapped, Callback.any):
        print(takes(hook, "batch"), takes(hook, "x"), takes(hook, "x", explicit=True), takes(hook, "x", min_args=2))
"""


def test_helpers_that_packages_import(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert lines(PACKAGE) == [
        "cpu 1", "cpu 1", "cpu 2", "[rank: 1] done done", "True",
        "True False False True", "True False False True", "True True False True",
    ]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_devices_of_gpus_are_indices():
    install()
    from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

    connector = _AcceleratorConnector(accelerator="auto", devices=1)

    assert (connector._accelerator_flag, connector._devices_flag) == ("cuda", [0])


class Falling(Net):
    def training_step(self, batch, batch_idx):
        self.log("loss_seen", 10.0 - self.global_step)
        return self(batch).mean()


def test_a_checkpoint_callback_may_keep_folders_beside_or_instead_of_its_files(tmp_path):
    install()
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Folders(ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            super()._save_checkpoint(trainer, filepath)
            Path(filepath).with_suffix("").mkdir()

        def _update_best_and_save(self, current, trainer, monitor_candidates):
            assert torch.equal(current, self._monitor_candidates(trainer)["loss_seen"])
            super()._update_best_and_save(current, trainer, monitor_candidates)
            Path(self.best_model_path).unlink()
            self.best_model_path = self.best_model_path.removesuffix(".ckpt")

        def _remove_checkpoint(self, trainer, filepath):
            super()._remove_checkpoint(trainer, filepath)
            Path(filepath).with_suffix("").rmdir()

    keep = Folders(tmp_path, "{step}", "loss_seen", save_top_k=2, every_n_train_steps=1, async_save=True)
    make_trainer(enable_checkpointing=True, callbacks=[keep]).fit(Falling(), numbers(4))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=3", "step=4"]
    assert keep.best_model_path == str(tmp_path / "step=4")
    assert keep.best_model_score == 7


@pytest.mark.parametrize(("save_last", "calls"), [(True, ["step=2", "last"]), ("link", ["step=2"])])
def test_the_last_file_is_saved_in_the_callbacks_own_way(tmp_path, save_last, calls):
    install()
    from pytorch_lightning.callbacks import ModelCheckpoint

    saved = []

    class Noted(ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            saved.append(Path(filepath).stem)
            super()._save_checkpoint(trainer, filepath)

    keep = Noted(tmp_path, "{step}", save_last=save_last, every_n_train_steps=2)
    make_trainer(enable_checkpointing=True, callbacks=[keep]).fit(Net(), numbers(2))

    assert saved == calls
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("on_step", [True, False])
def test_of_a_name_logged_by_a_step_and_by_the_end_hook_behind_it_the_latter_counts(on_step):
    class Twice(Net):
        def validation_step(self, batch, batch_idx):
            self.log("v", batch.mean(), on_step=on_step)

        def on_validation_epoch_end(self):
            self.log("v", 100.0)

    trainer = make_trainer(limit_train_batches=1)
    trainer.fit(Twice(), numbers(2), numbers(3))
    (result,) = trainer.validate(trainer.lightning_module, numbers(3), verbose=False)

    assert trainer.callback_metrics["v"] == trainer.logged_metrics["v"] == result["v"] == 100
    assert result == {"v": 100.0, **({"v_epoch": 1.0} if on_step else {})}
