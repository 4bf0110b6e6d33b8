"""LightningDataModule: the data of a project in one reusable class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from fulmen.checkpoint.hparams import HyperparametersMixin, class_only, load_datamodule
from fulmen.lifecycle import DataHooks

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


class LightningDataModule(HyperparametersMixin, DataHooks):
    """Download, split and load data apart from any model.

    class Digits(L.LightningDataModule):
        def setup(self, stage):
            self.train_set, self.val_set = ...

        def train_dataloader(self):
            return DataLoader(self.train_set, batch_size=64, shuffle=True)

    trainer.fit(model, datamodule=Digits())
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "datamodule_hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE = "datamodule_hparams_type"
    name: str | None = None
    prepare_data_per_node = True
    allow_zero_length_dataloader_with_multiple_devices = False
    trainer: Trainer | None = None

    def __init__(self) -> None:
        super().__init__()

    def on_exception(self, exception: BaseException) -> None:
        """Called when a run ends by an exception."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart, as plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> LightningDataModule:
        """A datamodule over ready datasets (or lists or dicts of them); only training data is shuffled."""

        def loader(dataset: Dataset[Any], shuffle: bool = False) -> DataLoader[Any]:
            shuffle = shuffle and not isinstance(dataset, IterableDataset)
            return DataLoader(dataset, batch_size, shuffle=shuffle, num_workers=num_workers, pin_memory=False)

        def loaders(datasets: Any, shuffle: bool = False) -> Any:
            if isinstance(datasets, Mapping):
                return {name: loader(dataset, shuffle) for name, dataset in datasets.items()}
            if isinstance(datasets, Sequence) and not isinstance(datasets, Dataset):
                return [loader(dataset, shuffle) for dataset in datasets]
            return loader(datasets, shuffle)

        datamodule = cls(**datamodule_kwargs)
        given = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        for stage, datasets in given.items():
            if datasets is not None:
                made = lambda d=datasets, shuffle=stage == "train": loaders(d, shuffle)  # noqa: E731
                setattr(datamodule, f"{stage}_dataloader", made)
        return datamodule

    load_from_checkpoint = class_only(load_datamodule)
