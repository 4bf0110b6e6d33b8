"""Batches taken out of tensors at once are those of collated samples: bit for bit, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import Net, make_trainer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)  # fmt: skip

from fulmen.batched import batched, is_batched
from fulmen.callbacks import LambdaCallback

X, Y = torch.randn(23, 3), torch.arange(23)
PAIRS = TensorDataset(X, Y)


def by_sample(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader, which collates sample by sample under the Trainer too."""
    return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=lambda b: default_collate(b))


def seen(batch: Any) -> Any:
    """All that can be told of a batch."""
    if isinstance(batch, torch.Tensor):
        data = batch.reshape(-1).view(torch.uint8).tolist()
        return type(batch), batch.dtype, batch.shape, batch.stride(), data
    return type(batch), [seen(part) for part in batch]


def run(loader: Any) -> Any:
    """What two passes give, and how the random numbers go on."""
    torch.manual_seed(5)
    batches = [[seen(batch) for batch in loader] for _ in range(2)]
    return batches, torch.rand(1).item()


DATASETS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: PAIRS,
    "a tensor": lambda: X,
    "a tensor of numbers": lambda: Y,
    "images": lambda: TensorDataset(torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8)),
    "NaN": lambda: TensorDataset(torch.full((4, 2), torch.nan)),
    "an array": lambda: X.numpy(),
    "numbers in an array": lambda: Y.numpy().astype(np.float32),
    "bools in an array": lambda: Y.numpy() % 2 == 0,
    "a part": lambda: Subset(PAIRS, [5, 3, 3, 0, 22]),
    "a part by a range": lambda: Subset(PAIRS, range(3, 20)),
    "a part by an array": lambda: Subset(PAIRS, np.array([4, 2, 9])),
    "a part by a tensor": lambda: Subset(PAIRS, torch.tensor([4, 2, 9])),
    "a part by negative numbers": lambda: Subset(PAIRS, [5, -1, 4, -3, 2]),
    "a part of a part": lambda: Subset(Subset(X, [9, 8, 7, 6]), [3, 0]),
    "a split": lambda: random_split(PAIRS, [10, 13], torch.Generator().manual_seed(0))[1],
}


@pytest.mark.parametrize("options", [{"batch_size": 4, "shuffle": True}, {"batch_size": 3, "drop_last": True}], ids=str)
@pytest.mark.parametrize("kind", DATASETS)
def test_batches_are_the_same(kind, options):
    loader = DataLoader(DATASETS[kind](), **options)
    assert is_batched(batched(loader))
    assert run(batched(loader)) == run(loader)


def test_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    loader = DataLoader(np.load(tmp_path / "x.npy", mmap_mode="c"), batch_size=4)
    assert is_batched(batched(loader))
    assert run(batched(loader)) == run(loader)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 3), max_size=4), dtype=st.sampled_from(DTYPES), size=st.integers(1, 5))
def test_batches_are_the_same_for_every_shape_and_type(shape, dtype, size):
    loader = DataLoader(TensorDataset((torch.randn(5, *shape) * 9).to(dtype)), batch_size=size)
    assert is_batched(batched(loader))
    assert run(batched(loader)) == run(loader)


SAMPLERS: dict[str, dict[str, Any]] = {
    "weights": {"sampler": WeightedRandomSampler([1.0] * 23, 9), "batch_size": 2},
    "a rank's share": {"sampler": DistributedSampler(PAIRS, num_replicas=2, rank=1), "batch_size": 2},
    "a list": {"sampler": [3, 1, 2], "batch_size": 2},
    "from the end": {"sampler": [-1, 0, -2], "batch_size": 2},
    "numbers of NumPy": {"sampler": list(np.arange(4)), "batch_size": 2},
    "tensors": {"sampler": list(torch.arange(4)), "batch_size": 2},
    "batches": {"batch_sampler": BatchSampler([4, 5, 6], 2, drop_last=False)},
    "two workers": {"num_workers": 2, "shuffle": True, "batch_size": 4, "persistent_workers": True},
    "a generator": {"generator": torch.Generator().manual_seed(1), "shuffle": True, "batch_size": 5},
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_samplers_and_workers_as_before(kind):
    options = SAMPLERS[kind]
    loader, other = DataLoader(PAIRS, **options), batched(DataLoader(PAIRS, **options))
    assert is_batched(other)
    expected = run(loader)
    if "generator" in options:
        options["generator"].manual_seed(1)
    assert run(other) == expected


@pytest.mark.parametrize("sampler", [[0, 23], [True, False], ["a", 1]], ids=str)
def test_what_torch_refuses_is_refused_in_the_same_words(sampler):
    loader, told = DataLoader(PAIRS, batch_size=2, sampler=sampler), []
    for each in (loader, batched(loader)):
        try:
            told.append(run(each))
        except Exception as error:
            told.append((type(error), str(error)))
    assert told[0] == told[1]


class Doubled(TensorDataset):
    def __getitem__(self, index):
        return tuple(2 * part for part in super().__getitem__(index))


class Noted(Subset[Any]):
    pass


class OwnLoader(DataLoader[Any]):
    pass


class Plain(Dataset[Any]):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(2)


LEFT_ALONE: dict[str, Callable[[], Any]] = {
    "a derived dataset": lambda: DataLoader(Doubled(X)),
    "a derived part": lambda: DataLoader(Noted(PAIRS, [1, 2])),
    "a part of a derived dataset": lambda: DataLoader(Subset(Doubled(X), [1, 2])),
    "a dataset of one's own": lambda: DataLoader(Plain()),
    "a derived loader": lambda: OwnLoader(PAIRS),
    "an own collate function": lambda: DataLoader(PAIRS, collate_fn=lambda batch: batch),
    "no batches": lambda: DataLoader(PAIRS, batch_size=None),
    "gradients": lambda: DataLoader(TensorDataset(X.clone().requires_grad_())),
    "another order in memory": lambda: DataLoader(TensorDataset(X.t().contiguous().t())),
    "a reversed array": lambda: DataLoader(X.numpy()[:, ::2]),
    "strings": lambda: DataLoader(np.array(["a", "b"])),
    "nothing": lambda: DataLoader(TensorDataset(torch.empty(0, 2))),
    "a list": lambda: [X, X],
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_everything_else_is_left_alone(kind):
    loader = LEFT_ALONE[kind]()
    assert batched(loader) is loader


def test_changes_of_the_dataset_are_seen():
    dataset = TensorDataset(X.clone())
    ready = batched(DataLoader(dataset, batch_size=23))
    dataset.tensors = (X + 1,)
    assert torch.equal(next(iter(ready))[0], X + 1)
    assert isinstance(ready.dataset, TensorDataset)


class Pairs(Net):
    def __init__(self):
        super().__init__(lr=0.1)
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self(x)[:, 0] - y).abs().mean()


def trained(loader: DataLoader[Any], **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    module = Pairs()
    trainer = make_trainer(max_epochs=2, **options)
    trainer.fit(module, loader)
    assert trainer.train_dataloader is loader
    return {name: value.tolist() for name, value in module.state_dict().items()}


def test_a_fit_ends_with_the_same_weights_and_leaves_the_loader_alone(caplog):
    loader = DataLoader(PAIRS, batch_size=4, shuffle=True)
    attributes = dict(vars(loader))
    with caplog.at_level("INFO", "fulmen"):
        weights = trained(loader)
    assert vars(loader) == attributes
    assert "TensorDataset" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "fulmen"):
        assert weights == trained(by_sample(loader))
    assert "TensorDataset" not in caplog.text


def test_a_fit_goes_on_in_the_midst_of_an_epoch(tmp_path):
    loader = DataLoader(PAIRS, batch_size=4, shuffle=True)
    path = tmp_path / "midst.ckpt"

    def save(trainer, *args):
        if trainer.global_step == 8:
            trainer.save_checkpoint(path)

    expected = trained(loader, callbacks=[LambdaCallback(on_train_batch_end=save)])
    torch.manual_seed(77)
    module = Pairs()
    make_trainer(max_epochs=2).fit(module, by_sample(loader), ckpt_path=path)
    assert {name: value.tolist() for name, value in module.state_dict().items()} == expected
