"""LightningDataModule: its hooks, its state, and datamodules made of datasets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, Numbers, Rows, Stream, Validated, make_trainer, numbers
from torch.utils.data import RandomSampler, SequentialSampler

import fulmen as L


class Digits(L.LightningDataModule):
    """Writes down what is called."""

    def __init__(self, size: int = 3, where: str = "here") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.epochs = 0

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {stage}")

    def teardown(self, stage: str) -> None:
        self.calls.append(f"teardown {stage}")

    def train_dataloader(self) -> Any:
        self.calls.append("train")
        return numbers(self.hparams.size)

    def val_dataloader(self) -> Any:
        self.calls.append("val")
        return numbers(1)

    def test_dataloader(self) -> Any:
        self.calls.append("test")
        return [numbers(1)]

    def predict_dataloader(self) -> Any:
        self.calls.append("predict")
        return numbers(2)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": 5}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]

    def on_exception(self, exception: BaseException) -> None:
        self.calls.append(type(exception).__name__)


def test_what_is_called_by_each_verb():
    data, trainer, module = Digits(), make_trainer(), Validated()
    trainer.fit(module, data)
    assert data.calls == ["prepare_data", "setup fit", "train", "val", "teardown fit"]
    assert (data.trainer, trainer.datamodule) == (trainer, data)
    for verb, stage in (("validate", "val"), ("test", "test"), ("predict", "predict")):
        data.calls.clear()
        getattr(trainer, verb)(module, datamodule=data)
        assert data.calls == ["prepare_data", f"setup {verb}", stage, f"teardown {verb}"]


def test_it_is_told_of_an_error_and_not_torn_down():
    class Failing(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise KeyError("x")

    data = Digits()
    with pytest.raises(KeyError):
        make_trainer().fit(Failing(), data)
    assert data.calls == ["prepare_data", "setup fit", "train", "val", "KeyError"]


class Kept(Validated):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.save_hyperparameters()


def test_its_hyperparameters_and_state_lie_beside_the_modules(tmp_path):
    rows = Rows()
    trainer = make_trainer(logger=rows, log_every_n_steps=1)
    trainer.fit(Kept(0.2), Digits(4))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == {"lr": 0.2}
    assert checkpoint["datamodule_hyper_parameters"] == {"size": 4, "where": "here"}
    assert checkpoint["Digits"] == {"epochs": 5}
    assert rows.hparams == [{"size": 4, "where": "here", "lr": 0.2}]

    again = Digits.load_from_checkpoint(tmp_path / "a.ckpt", where="there")
    assert dict(again.hparams) == {"size": 4, "where": "there"}
    assert Kept.load_from_checkpoint(tmp_path / "a.ckpt").hparams.lr == 0.2
    make_trainer(max_epochs=2).fit(Kept(), datamodule=again, ckpt_path=tmp_path / "a.ckpt")
    assert again.epochs == 5


# ---- of datasets


def test_only_training_data_are_shuffled():
    data = L.LightningDataModule.from_datasets(
        Numbers(5), Numbers(4), [Numbers(1), Numbers(2)], {"a": Numbers(3)}, batch_size=2
    )
    assert isinstance(data.train_dataloader().sampler, RandomSampler)
    loaders = [data.val_dataloader(), *data.test_dataloader(), data.predict_dataloader()["a"]]
    assert all(isinstance(loader.sampler, SequentialSampler) for loader in loaders)
    assert [loader.batch_size for loader in loaders] == [2, 2, 2, 2]
    assert [len(loader) for loader in loaders] == [2, 1, 1, 2]
    trainer = make_trainer()
    trainer.fit(Validated(), data)
    assert (trainer.num_training_batches, trainer.num_val_batches) == (3, [2])


def test_streams_keep_their_order():
    data = L.LightningDataModule.from_datasets(Stream(3))
    assert [batch[0, 0].item() for batch in data.train_dataloader()] == [0, 1, 2]


def test_arguments_of_a_subclass_reach_it():
    data = Digits.from_datasets(predict_dataset=Numbers(7), size=2)
    assert data.hparams.size == 2
    assert len(data.predict_dataloader()) == 7
    assert len(data.train_dataloader()) == 2


# ---- refused


def test_what_it_does_not_have_is_told():
    class Nothing(L.LightningDataModule): ...

    trainer = make_trainer()
    with pytest.raises(ValueError, match="train_dataloader"):
        trainer.fit(Net(), Nothing())
    with pytest.raises(ValueError, match="test_dataloader"):
        trainer.test(Validated(), Nothing())


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_datamodule_and_loaders_together_are_refused(verb):
    with pytest.raises(ValueError, match="datamodule"):
        getattr(make_trainer(), verb)(Validated(), numbers(1), datamodule=Digits())


def test_the_same_name_with_another_value_is_refused_where_it_is_logged():
    class Sized(Validated):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    make_trainer(logger=Rows(), log_every_n_steps=1).fit(Sized(3), Digits(3))
    with pytest.raises(ValueError, match="'size'"):
        make_trainer(logger=Rows(), log_every_n_steps=1).fit(Sized(9), Digits(3))
