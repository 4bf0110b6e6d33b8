import math
import os
import random

import pytest
import torch
from small import Net, Numbers, make_trainer, numbers
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import fulmen as L
from fulmen.combined import CombinedLoader
from fulmen.data import (
    check_loader,
    distributed,
    is_shuffled,
    limit,
    loader_length,
    seeded_workers,
    sequential,
    set_epoch,
    with_batch_sampler,
    with_sampler,
)
from fulmen.errors import MisconfigurationException
from fulmen.seed import seed_everything


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class SizedStream(Stream):
    def __len__(self):
        return 4


class NotYet:
    def __iter__(self):
        return iter([])

    def __len__(self):
        raise NotImplementedError


class OwnLoader(DataLoader):
    """With a constructor unlike that of its base class."""

    def __init__(self, name):
        super().__init__(range(10), batch_size=4, shuffle=True)
        self.name = name


class Backwards(Sampler):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(range(self.size - 1, -1, -1))

    def __len__(self):
        return self.size


class Pairs(BatchSampler):
    """A batch sampler of the user's own, with a sampler inside and no argument of that name."""

    def __init__(self, size):
        super().__init__(SequentialSampler(range(size)), 2, False)


class Buckets:
    """A batch sampler that has no sampler inside."""

    def __iter__(self):
        return iter([[0, 1, 2], [3], [4, 5], [6, 7]])

    def __len__(self):
        return 4


def batches(loader):
    return [batch.tolist() for batch in loader]


def samples(loader):
    return [sample for batch in batches(loader) for sample in batch]


def custom(size, **options):
    return DataLoader(range(size), sampler=Backwards(size), **options)


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (DataLoader(range(5), batch_size=2), 3),
        ([1, 2], 2),
        (DataLoader(Stream()), math.inf),
        (DataLoader(SizedStream(), batch_size=2), 2),
        (iter([1]), math.inf),
        (NotYet(), math.inf),
        (CombinedLoader([[1], Stream()], "max_size"), math.inf),
    ],
)
def test_the_length_is_the_number_of_batches(loader, length):
    assert loader_length(loader) == length


@pytest.mark.parametrize(
    ("length", "value", "batches"),
    [
        (10, 4, 4),
        (10, 40, 10),
        (10, 0, 0),
        (math.inf, 3, 3),
        (10, 1.0, 10),
        (math.inf, 1.0, math.inf),
        (10, 0.0, 0),
        (math.inf, 0.0, 0),
        (10, 0.25, 2),
        (100, 0.29, 29),
        (0, 0.5, 0),
        (1, 1, 1),
    ],
)
def test_a_limit_is_a_number_or_a_share_of_the_batches(length, value, batches):
    assert limit(length, value, "limit_train_batches") == batches


def test_a_share_of_an_unknown_length_is_an_error():
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches=0.5 is a share .* no length\. Pass an int"):
        limit(math.inf, 0.5, "limit_val_batches")


def test_a_share_of_less_than_a_batch_is_an_error_with_the_numbers():
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches=0.1 of 5 batches .* limit_val_batches=0.2"):
        limit(5, 0.1, "limit_val_batches")


@pytest.mark.parametrize("loader", [3, None, "data", b"data", 1.5, object(), DataLoader, [None], {"a": 3}, {"a": "b"}])
def test_what_is_no_loader_is_an_error_that_says_what_to_pass(loader):
    with pytest.raises(
        TypeError, match=r"train_dataloaders in trainer\.fit must be a DataLoader or another iterable of b"
    ):
        check_loader(loader, "train_dataloaders", "fit")


@pytest.mark.parametrize("nest", [lambda loader: loader, lambda loader: [loader], lambda loader: {"a": [loader]}])
def test_a_dataset_in_the_place_of_a_loader_is_an_error(nest):
    dataset = TensorDataset(torch.ones(4))
    with pytest.raises(
        TypeError, match=r"dataloaders in trainer\.test got the dataset TensorDataset.*Wrap it in a DataL"
    ):
        check_loader(nest(dataset), "dataloaders", "test")


def test_a_combined_loader_is_checked_too():
    with pytest.raises(TypeError, match="Wrap it in a DataLoader"):
        check_loader(CombinedLoader([[1], TensorDataset(torch.ones(4))]), "train_dataloaders", "fit")


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(range(3)),
        [torch.ones(1)],
        {"a": [1]},
        Stream(),
        (batch for batch in "ab"),
        [DataLoader(range(3)), [1]],
    ],
)
def test_any_iterable_of_batches_is_a_loader(loader):
    check_loader(loader, "train_dataloaders", "fit")


def test_checking_draws_no_batch():
    loader = iter([1])
    check_loader(loader, "train_dataloaders", "fit")
    assert list(loader) == [1]


@pytest.mark.parametrize("loader", [OwnLoader("mine"), DataLoader(range(10), batch_size=4, shuffle=True)])
def test_another_sampler_in_a_copy_of_the_loader(loader):
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    copy = with_sampler(loader, [7, 8, 9, 1, 2])
    assert batches(copy) == [[7, 8, 9, 1], [2]]
    assert len(copy) == 2
    assert type(copy) is type(loader)
    assert (loader.sampler, loader.batch_sampler, batch_sampler.sampler) == (sampler, batch_sampler, sampler)
    assert sorted(samples(loader)) == list(range(10))


def test_another_sampler_under_a_batch_sampler_of_the_users_own():
    copy = with_sampler(DataLoader(range(10), batch_sampler=Pairs(10)), [5, 4, 3])
    assert batches(copy) == [[5, 4], [3]]
    assert type(copy.batch_sampler) is Pairs


def test_another_sampler_where_nothing_is_batched():
    copy = with_sampler(DataLoader(range(10), batch_size=None), [5, 4])
    assert list(copy) == [5, 4]


@pytest.mark.slow
def test_a_copy_does_not_take_over_persistent_workers():
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
    assert samples(loader) == [0, 1, 2, 3]
    copy = with_sampler(loader, [3, 1])
    assert samples(copy) == [3, 1]
    assert samples(loader) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "replacement", "drawn"),
    [({"batch_size": 2}, [[5], [6, 7]], [[5], [6, 7]]), ({"batch_size": None}, [3, 4], [3, 4])],
)
def test_another_batch_sampler_gives_what_the_loader_asks_its_dataset_for(options, replacement, drawn):
    loader = DataLoader(range(8), **options)
    copy = with_batch_sampler(loader, replacement)
    assert [torch.as_tensor(batch).tolist() for batch in copy] == drawn
    assert len(copy) == 2
    assert sum(torch.as_tensor(batch).numel() for batch in loader) == 8


def test_workers_are_seeded_if_asked_for():
    loader = DataLoader(range(2), num_workers=1)
    seed_everything(1, verbose=False)
    assert seeded_workers(loader, 0) is loader
    seed_everything(1, workers=True, verbose=False)
    assert seeded_workers(loader, 3).worker_init_fn.keywords == {"rank": 3}
    assert loader.worker_init_fn is None
    own = DataLoader(range(2), num_workers=1, worker_init_fn=random.seed)
    assert seeded_workers(own, 0) is own
    assert seeded_workers([1], 0) == [1]
    assert os.environ["PL_SEED_WORKERS"] == "1"


@pytest.mark.parametrize(
    ("loader", "shuffled"),
    [
        (DataLoader(range(4), shuffle=True), True),
        (DataLoader(range(4)), False),
        (DataLoader(range(4), sampler=SubsetRandomSampler([1, 2])), True),
        (DataLoader(range(4), sampler=WeightedRandomSampler([1, 1], 2)), True),
        (DataLoader(range(4), batch_sampler=BatchSampler(RandomSampler(range(4)), 2, False)), True),
        (DataLoader(range(4), sampler=DistributedSampler(range(4), 2, 0)), True),
        (DataLoader(range(4), sampler=DistributedSampler(range(4), 2, 0, shuffle=False)), False),
        (DataLoader(range(4), batch_sampler=Buckets()), False),
        (DataLoader(Stream()), False),
        ([1, 2], False),
    ],
)
def test_shuffling_is_recognized(loader, shuffled):
    assert is_shuffled(loader) is shuffled


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shuffle": True}, [0, 1, 2, 3]),
        ({"sampler": SubsetRandomSampler([3, 1])}, [3, 1]),
        ({"sampler": DistributedSampler(range(4), 2, 1)}, [1, 3]),
        ({"batch_sampler": BatchSampler(RandomSampler(range(4)), 2, False)}, [0, 1, 2, 3]),
    ],
)
def test_overfitting_turns_shuffling_off_with_a_warning(options, expected):
    loader = DataLoader(range(4), **options)
    with pytest.warns(UserWarning, match="overfit_batches needs the same batches"):
        ordered = sequential(loader)
    assert samples(ordered) == expected
    assert is_shuffled(loader)


@pytest.mark.parametrize("loader", [DataLoader(range(4)), DataLoader(Stream()), [1], custom(4)])
def test_overfitting_leaves_other_loaders_alone(loader):
    assert sequential(loader) is loader


class Told:
    """A sampler that counts how often it is told the epoch."""

    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter([[0]])


def test_every_sampler_is_told_the_epoch_once():
    told = [Told() for _ in range(4)]
    one = DataLoader(range(4), sampler=told[0])
    two = DataLoader(range(4), batch_sampler=told[1])
    told[2].sampler = told[3]
    three = DataLoader(range(4), batch_sampler=told[2])
    set_epoch(one, 1)
    set_epoch(CombinedLoader({"one": one, "rest": [two, three, [1, 2]]}), 2)
    set_epoch([1, 2], 3)
    assert [each.epochs for each in told] == [[1, 2], [2], [2], [2]]


class Counter(L.LightningModule):
    """Keeps the samples that it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += batch.tolist()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(loader, **options):
    model = Counter()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**{"max_epochs": 1, "accelerator": "cpu", "logger": False, **quiet, **options}).fit(model, loader)
    return model


@pytest.mark.parametrize(("value", "seen"), [(3, 3), (0.25, 2), (1.0, 8), (100, 8)])
def test_the_trainer_takes_as_many_batches_as_the_limit_says(value, seen):
    assert fitted(DataLoader(range(8)), limit_train_batches=value).seen == list(range(seen))


def test_the_trainer_takes_an_int_of_a_stream_and_refuses_a_share():
    assert fitted(DataLoader(Stream()), limit_train_batches=3).seen == [0, 1, 2]
    with pytest.raises(MisconfigurationException, match=r"limit_train_batches=0\.5 is a share"):
        fitted(DataLoader(Stream()), limit_train_batches=0.5)


def test_the_trainer_refuses_what_is_no_loader():
    with pytest.raises(TypeError, match=r"train_dataloaders .* must be a DataLoader or another iterable of batches"):
        fitted(3)
    with pytest.raises(TypeError, match=r"train_dataloaders .* Wrap it in a DataLoader"):
        fitted(TensorDataset(torch.ones(4)))


def test_the_trainer_overfits_on_the_same_batches_in_each_epoch():
    loader = DataLoader(range(8), shuffle=True)
    with pytest.warns(UserWarning, match="without its shuffling"):
        model = fitted(loader, overfit_batches=2, max_epochs=3)
    assert model.seen == [0, 1] * 3
    assert is_shuffled(loader)


def test_the_trainer_tells_the_samplers_the_epoch():
    sampler = DistributedSampler(range(8), num_replicas=2, rank=0)
    fitted(DataLoader(range(8), sampler=sampler), max_epochs=3)
    assert sampler.epoch == 2


# ---- what ends before its length says


class Broken(Numbers):
    def __getitem__(self, index):
        if index == 3:
            raise StopIteration
        return super().__getitem__(index)


class Boasting(Sampler):
    def __len__(self):
        return 10

    def __iter__(self):
        return iter(range(4))


class Lists:
    def __len__(self):
        return 5

    def __iter__(self):
        return iter([[0, 1], [2, 3]])


class Longer(DataLoader):
    def __len__(self):
        return 7


def shared(loader: DataLoader) -> DataLoader:
    return distributed(loader, {"num_replicas": 1, "rank": 0}, training=False)


@pytest.mark.parametrize("kind", ["plain", "lists", "shared"])
def test_a_dataset_that_raises_stop_iteration_is_named(kind):
    data = Broken(8)
    loader = {
        "plain": lambda: DataLoader(data, batch_size=2),
        "lists": lambda: DataLoader(data, batch_sampler=[[0, 1], [2, 3], [4, 5], [6, 7]]),
        "shared": lambda: shared(DataLoader(data, batch_size=2)),
    }[kind]()
    with pytest.raises(RuntimeError, match=r"ended after 1 of its 4 batches .* Broken, line \d+ to \d+, raised"):
        make_trainer().fit(Net(), loader)


@pytest.mark.parametrize("kind", ["sampler", "batch_sampler", "shared", "loader"])
def test_a_length_of_the_users_own_that_is_too_high_ends_an_epoch_early(kind):
    data = Numbers(10)
    loader = {
        "sampler": lambda: DataLoader(data, batch_size=2, sampler=Boasting()),
        "batch_sampler": lambda: DataLoader(data, batch_sampler=Lists()),
        "shared": lambda: shared(DataLoader(data, batch_sampler=Lists())),
        "loader": lambda: Longer(Numbers(4), batch_size=2),
    }[kind]()
    trainer = make_trainer(max_epochs=2)

    with pytest.warns(UserWarning, match=r"ended after 2 of its \d batches: its __len__, or its sampler's, is"):
        trainer.fit(Net(), loader)

    assert (trainer.current_epoch, trainer.global_step) == (2, 4)


def test_a_batch_of_the_users_own_is_asked_to_move_on_the_cpu_too():
    class Doubling:
        def __init__(self, samples):
            self.x = torch.stack(samples)

        def to(self, device):
            self.x = self.x.to(device) * 2
            return self

    class Seeing(Net):
        seen = ()

        def training_step(self, batch, batch_idx):
            self.seen = (*self.seen, float(batch.x[0, 0]))
            return self(batch.x).mean()

    module = Seeing()
    make_trainer().fit(module, numbers(3, collate_fn=Doubling))

    assert module.seen == (0.0, 2.0, 4.0)
