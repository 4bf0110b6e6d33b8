"""Parts of the engine that users bring: how checkpoints are kept, which layers synchronize."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from small import Net, numbers
from torch import nn

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.strategy.checkpoint_io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from fulmen.strategy.layer_sync import LayerSync, TorchSyncBatchNorm


class Memory(CheckpointIO):
    """Keeps checkpoints in a dict."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.ended = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.kept[str(path)] = checkpoint

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return self.kept[str(path)]

    def remove_checkpoint(self, path: Any) -> None:
        del self.kept[str(path)]

    def teardown(self) -> None:
        self.ended = True


def trainer(**options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 3, **quiet, **options})


def test_checkpoints_are_kept_deleted_and_read_by_the_users_part():
    memory = Memory()
    one = trainer(plugins=[memory], callbacks=[ModelCheckpoint("some/where", "{epoch}", save_last=False)])
    one.fit(Net(), numbers(2))

    assert list(memory.kept) == [os.path.abspath("some/where/epoch=2.ckpt")]
    assert not os.path.exists("some/where/epoch=2.ckpt")
    assert memory.ended

    two = trainer(plugins=memory, max_epochs=4, enable_checkpointing=False)
    two.fit(Net(), numbers(2), ckpt_path=one.checkpoint_callback.best_model_path)
    assert two.global_step == 8


def test_the_default_can_be_extended():
    class Counting(TorchCheckpointIO):
        saves = 0

        def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            self.saves += 1
            super().save_checkpoint(*args, **kwargs)

    counting = Counting()
    trainer(plugins=[counting], callbacks=[ModelCheckpoint("ckpt", save_top_k=1)]).fit(Net(), numbers(2))

    assert counting.saves == 3
    assert len(os.listdir("ckpt")) == 1


def test_a_save_beside_training_is_whole_at_the_end():
    one = trainer(plugins=[AsyncCheckpointIO()], callbacks=[ModelCheckpoint("ckpt", "{epoch}", save_top_k=-1)])
    module = Net()
    one.fit(module, numbers(2))

    assert sorted(os.listdir("ckpt")) == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"]
    kept = torch.load("ckpt/epoch=2.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())


def test_a_save_beside_training_that_fails_is_told():
    class Full(Memory):
        def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        trainer(plugins=[AsyncCheckpointIO(Full())], callbacks=[ModelCheckpoint("ckpt")]).fit(Net(), numbers(2))


def test_batch_norms_synchronize_during_a_run_only():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm2d(3), nn.Linear(3, 3)))
    own, weight, sync = dict(model.named_modules()), model[0].weight, TorchSyncBatchNorm()

    synced = sync.apply(model)
    assert [type(layer) for layer in (synced[0], synced[1][0])] == [nn.SyncBatchNorm, nn.SyncBatchNorm]
    synced.double()
    synced[0].running_mean.fill_(7)

    back = sync.revert(synced)
    assert dict(back.named_modules()) == own
    assert back[0].weight is weight
    assert back[0].running_mean.tolist() == [7, 7]
    assert back[1][0].running_var.dtype == torch.float64


@pytest.mark.parametrize("strategy", ["ddp"])
def test_the_users_layers_are_put_in_and_taken_out(strategy):
    class Seen(LayerSync):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def apply(self, model: nn.Module) -> nn.Module:
            self.calls.append("apply")
            return model

        def revert(self, model: nn.Module) -> nn.Module:
            self.calls.append("revert")
            return model

    seen = Seen()
    trainer(plugins=[seen], strategy=strategy, devices=1, max_epochs=1, enable_checkpointing=False).fit(
        Net(), numbers(2)
    )
    assert seen.calls == ["apply", "revert"]


def test_what_is_no_part_is_refused():
    with pytest.raises(TypeError, match="must be a Precision, a ClusterEnvironment, a CheckpointIO or a LayerSync"):
        trainer(plugins=[object()])
