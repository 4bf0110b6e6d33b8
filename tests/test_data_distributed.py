"""The shares that ranks get of a loader."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fulmen.data import (
    DistributedSamplerWrapper,
    UnrepeatedDistributedSampler,
    distributed,
    set_epoch,
)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class Backwards(Sampler):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(range(self.size - 1, -1, -1))

    def __len__(self):
        return self.size


class Buckets:
    """A batch sampler that has no sampler inside."""

    def __iter__(self):
        return iter([[0, 1, 2], [3], [4, 5], [6, 7]])

    def __len__(self):
        return 4


class Told:
    """A sampler that counts how often it is told the epoch."""

    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter([[0]])


class Endless(Sampler):
    def __iter__(self):
        index = 0
        while True:
            yield index
            index += 1


class Pairs(BatchSampler):
    """A batch sampler of the user's own, with a sampler inside and no argument of that name."""

    def __init__(self, size):
        super().__init__(SequentialSampler(range(size)), 2, False)


def batches(loader):
    return [batch.tolist() for batch in loader]


def samples(loader):
    return [sample for batch in batches(loader) for sample in batch]


def custom(size, **options):
    return DataLoader(range(size), sampler=Backwards(size), **options)


def shares(loader, ranks=2, training=False, **options):
    """What each rank gets of a loader."""
    return [
        samples(distributed(loader, {"num_replicas": ranks, "rank": rank}, training, **options))
        for rank in range(ranks)
    ]


@pytest.mark.parametrize(("size", "ranks"), [(10, 2), (11, 3), (2, 4), (0, 2)])
@pytest.mark.parametrize(
    "make", [lambda size: DataLoader(range(size), batch_size=2), lambda size: custom(size, batch_size=2)]
)
def test_in_evaluation_each_sample_comes_exactly_once_over_all_ranks(make, size, ranks):
    loader = make(size)
    whole = samples(loader)
    assert shares(loader, ranks) == [whole[rank::ranks] for rank in range(ranks)]


def test_a_shuffled_loader_is_evaluated_in_one_order_for_all_ranks():
    one, two = shares(DataLoader(range(9), shuffle=True))
    assert sorted(one + two) == list(range(9))
    assert one != [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("drop_last", "each"), [(False, 4), (True, 3)])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: DataLoader(range(11), batch_size=1, **options),
        lambda **options: DataLoader(range(11), batch_size=1, shuffle=True, **options),
        lambda **options: custom(11, batch_size=1, **options),
    ],
)
def test_in_training_all_ranks_get_equally_many(make, drop_last, each):
    got = shares(make(drop_last=drop_last), ranks=3, training=True)
    assert [len(share) for share in got] == [each] * 3
    assert len({sample for share in got for sample in share}) == (9 if drop_last else 11)


def test_training_is_shuffled_if_the_users_loader_is_and_anew_in_each_epoch():
    options = {"kwargs": {"num_replicas": 2, "rank": 0}, "training": True}
    assert samples(distributed(DataLoader(range(8)), **options)) == [0, 2, 4, 6]
    loader = distributed(DataLoader(range(8), shuffle=True), **options, seed=5)
    assert isinstance(loader.sampler, DistributedSampler)
    first = samples(loader)
    assert samples(loader) == first
    assert samples(distributed(DataLoader(range(8), shuffle=True), **options, seed=6)) != first
    set_epoch(loader, 1)
    assert samples(loader) != first


@pytest.mark.parametrize(
    "sampler",
    [
        WeightedRandomSampler([1.0] * 8, 20),
        SubsetRandomSampler([1, 3, 5, 7]),
        RandomSampler(range(8), replacement=True, num_samples=20),
        RandomSampler(range(8), num_samples=6),
        RandomSampler(range(8), replacement=True),
        SequentialSampler(range(6)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_sampler_with_a_meaning_of_its_own_is_shared_out(sampler, training):
    loader = DataLoader(range(8), sampler=sampler)
    torch.manual_seed(1)
    one = samples(distributed(loader, {"num_replicas": 2, "rank": 0}, training, seed=3))
    torch.manual_seed(2)  # ranks need not be at the same random state
    two = samples(distributed(loader, {"num_replicas": 2, "rank": 1}, training, seed=3))
    assert len(one) == len(two) == len(sampler) / 2
    whole = [sample for pair in zip(one, two, strict=True) for sample in pair]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert whole == list(sampler)


def test_sharing_out_draws_anew_in_each_epoch_and_leaves_the_random_state_alone():
    share = DistributedSamplerWrapper(RandomSampler(range(100), num_samples=50), 2, 0)
    state = torch.get_rng_state()
    first = list(share)
    assert list(share) == first
    share.set_epoch(1)
    assert list(share) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sampler_inside_a_shared_out_one_is_told_the_epoch():
    told = Told()
    set_epoch(distributed(DataLoader(range(4), sampler=told), {"num_replicas": 2, "rank": 0}, True), 7)
    assert told.epochs == [7]


def test_an_endless_sampler_is_drawn_from_as_needed():
    loader = distributed(DataLoader(range(100), sampler=Endless()), {"num_replicas": 3, "rank": 1}, True)
    iterator = iter(loader)
    assert [next(iterator).item() for _ in range(3)] == [1, 4, 7]


def test_a_batch_sampler_of_the_users_own_keeps_batching():
    loader = distributed(DataLoader(range(8), batch_sampler=Pairs(8)), {"num_replicas": 2, "rank": 1}, False)
    assert batches(loader) == [[1, 3], [5, 7]]


def test_the_batches_are_shared_out_if_nothing_else_can_be():
    loader = DataLoader(range(8), batch_sampler=Buckets())
    one, two = (distributed(loader, {"num_replicas": 2, "rank": rank}, True) for rank in range(2))
    assert (batches(one), batches(two)) == ([[0, 1, 2], [4, 5]], [[3], [6, 7]])


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream()),
        [1, 2],
        DataLoader(range(4), sampler=DistributedSampler(range(4), 2, 0)),
        DataLoader(range(4), batch_sampler=BatchSampler(DistributedSampler(range(4), 2, 0), 2, False)),
        DataLoader(range(4), sampler=UnrepeatedDistributedSampler(range(4), 2, 0)),
        DataLoader(range(4), batch_sampler=DistributedSamplerWrapper(Buckets(), 2, 0)),
    ],
)
def test_streams_and_loaders_that_know_their_rank_are_left_alone(loader):
    assert distributed(loader, {"num_replicas": 2, "rank": 1}, True) is loader


def test_sharing_out_does_not_touch_the_users_loader():
    loader = DataLoader(range(8), batch_size=2)
    shares(loader, training=True)
    assert type(loader.sampler) is SequentialSampler
    assert samples(loader) == list(range(8))


def test_the_unrepeated_sampler_knows_its_length():
    lengths = [len(UnrepeatedDistributedSampler(range(5), 2, rank, shuffle=False)) for rank in range(2)]
    assert lengths == [3, 2]
