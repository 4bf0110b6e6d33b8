from __future__ import annotations

import pytest
import torch

import fulmen as L
from fulmen import demos

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 2,
    "limit_test_batches": 2, "limit_predict_batches": 2,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::fulmen.warn.PossibleUserWarning")


@pytest.mark.parametrize("model", [demos.BoringModel, demos.ManualOptimBoringModel])
@pytest.mark.parametrize("data", [None, demos.BoringDataModule, demos.BoringDataModuleNoLen])
def test_models_and_data_run_through_every_verb(model, data):
    trainer, model = L.Trainer(**QUIET), model()
    before = model.layer.weight.clone()
    datamodule = data and data()
    trainer.fit(model, datamodule)
    trainer.validate(model, datamodule=datamodule, verbose=False)
    trainer.test(model, datamodule=datamodule, verbose=False)

    assert trainer.global_step == 3
    assert not torch.equal(model.layer.weight, before)
    assert len(trainer.predict(model, datamodule=datamodule)) == 2


def test_several_loaders():
    class Several(demos.BoringModel):
        def training_step(self, batch, batch_idx):
            return self.step(batch[0]) + self.step(batch[1])

        def validation_step(self, batch, batch_idx, dataloader_idx):
            return self.step(batch)

    trainer = L.Trainer(**QUIET)
    trainer.fit(Several(), datamodule=demos.IterableBoringDataModule())

    assert trainer.num_val_batches == [2, 2]


def test_a_model_with_arguments():
    assert demos.DemoModel(out_dim=3)(torch.ones(2, 32)).shape == (2, 3)


def test_datasets():
    assert len(demos.RandomDataset(3, 4)) == 4
    assert demos.RandomDataset(3, 4)[0].shape == (3,)
    row = demos.RandomDictDataset(4, 3)[1]
    assert torch.equal(row["b"], row["a"] + 2)
    assert len(list(demos.RandomIterableDataset(4, 2))) == len(demos.RandomIterableDatasetWithLen(4, 2)) == 2
