import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import fulmen as L
from fulmen.combined import CombinedLoader

A, B = [1, 2, 3], ["x", "y"]
MODES = ["min_size", "max_size_cycle", "max_size", "sequential"]


class Stream(IterableDataset):
    """Without a length."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(range(self.size))


class Tape:
    """A loader that can say and be told where it stands."""

    def __init__(self, size):
        self.size, self.position = size, 0

    def __iter__(self):
        while self.position < self.size:
            self.position += 1
            yield self.position - 1
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


@pytest.mark.parametrize(
    ("mode", "batches"),
    [
        ("min_size", [({"a": 1, "b": "x"}, 0, 0), ({"a": 2, "b": "y"}, 1, 0)]),
        ("max_size_cycle", [({"a": 1, "b": "x"}, 0, 0), ({"a": 2, "b": "y"}, 1, 0), ({"a": 3, "b": "x"}, 2, 0)]),
        ("max_size", [({"a": 1, "b": "x"}, 0, 0), ({"a": 2, "b": "y"}, 1, 0), ({"a": 3, "b": None}, 2, 0)]),
        ("sequential", [(1, 0, 0), (2, 1, 0), (3, 2, 0), ("x", 0, 1), ("y", 1, 1)]),
    ],
)
def test_what_each_mode_yields(mode, batches):
    loader = CombinedLoader({"a": A, "b": B}, mode)
    assert list(loader) == batches
    assert list(loader) == batches  # a second pass is like the first
    assert len(loader) == len(batches)


@pytest.mark.parametrize(
    ("mode", "batches"),
    [
        ("min_size", []),
        ("max_size_cycle", []),
        ("max_size", [([1, None], 0, 0), ([2, None], 1, 0), ([3, None], 2, 0)]),
        ("sequential", [(1, 0, 0), (2, 1, 0), (3, 2, 0)]),
    ],
)
def test_with_an_empty_loader(mode, batches):
    assert list(CombinedLoader([A, []], mode)) == batches


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("loader", "batches"),
    [([1, 2], [1, 2]), (range(2), [0, 1]), (DataLoader(range(2), batch_size=None), [0, 1]), ([], [])],
)
def test_a_single_loader_is_its_own_combination(mode, loader, batches):
    assert list(CombinedLoader(loader, mode)) == [(batch, index, 0) for index, batch in enumerate(batches)]


@pytest.mark.parametrize(
    ("loaders", "batch", "flattened"),
    [
        ((A, B), (1, "x"), [A, B]),
        ([[A, B], {"c": A}], [[1, "x"], {"c": 1}], [A, B, A]),
        ({"a": {"b": (A,)}, "c": B}, {"a": {"b": (1,)}, "c": "x"}, [A, B]),
    ],
)
def test_batches_come_in_the_nesting_of_the_loaders(loaders, batch, flattened):
    loader = CombinedLoader(loaders)
    assert next(iter(loader)) == (batch, 0, 0)
    assert loader.iterables == loaders
    assert loader.flattened == flattened


def test_loaders_without_a_length_run_until_they_end():
    stream = DataLoader(Stream(2), batch_size=None)
    assert [batch for batch, *_ in CombinedLoader([stream, A], "min_size")] == [[0, 1], [1, 2]]
    assert [batch for batch, *_ in CombinedLoader([stream, A], "max_size_cycle")] == [[0, 1], [1, 2], [0, 3]]
    assert [batch for batch, *_ in CombinedLoader([stream, A], "max_size")] == [[0, 1], [1, 2], [None, 3]]


@pytest.mark.parametrize("mode", MODES[1:])
def test_the_length_is_an_error_where_a_loader_without_one_decides_it(mode):
    with pytest.raises(TypeError, match=f"has no length: with mode='{mode}'"):
        len(CombinedLoader([A, DataLoader(Stream(2))], mode))
    assert len(CombinedLoader([A, DataLoader(Stream(2))], "min_size")) == 3


@pytest.mark.parametrize(
    ("mode", "length"), [("min_size", 1), ("max_size_cycle", 2), ("max_size", 2), ("sequential", 3)]
)
def test_limits_shorten_a_pass(mode, length):
    loader = CombinedLoader([A, B], mode)
    loader.limits = [2, 1]
    assert len(loader) == len(list(loader)) == length
    loader.limits = 1
    assert loader.limits == [1, 1]
    assert len(loader) == len(list(loader)) == (2 if mode == "sequential" else 1)
    loader.limits = None
    assert list(loader) == list(CombinedLoader([A, B], mode))


def test_a_limit_draws_no_batch_in_vain():
    drawn = []
    loader = CombinedLoader([map(drawn.append, A), B], "sequential")
    loader.limits = [2, 0]
    assert len(list(loader)) == len(drawn) == 2


def test_limits_must_be_as_many_as_the_loaders():
    with pytest.raises(ValueError, match=r"limits=\[1\] has 1 numbers for 2 loaders"):
        CombinedLoader([A, B]).limits = [1]


def test_samplers_in_the_nesting_of_the_loaders():
    one, two = DataLoader(range(4), batch_size=2), DataLoader(range(4), batch_size=None)
    loader = CombinedLoader({"one": one, "rest": [two, A]})
    assert loader.sampler == {"one": one.sampler, "rest": [two.sampler, None]}
    assert loader.batch_sampler == {"one": one.batch_sampler, "rest": [None, None]}


def test_loaders_can_be_replaced_in_a_row():
    loader = CombinedLoader({"a": A, "b": B})
    loader.flattened = [[4], [5]]
    assert loader.iterables == {"a": [4], "b": [5]}
    assert list(loader) == [({"a": 4, "b": 5}, 0, 0)]
    with pytest.raises(ValueError, match="has 2 loaders, and cannot be set to 3"):
        loader.flattened = [A, A, A]


def test_an_unknown_mode_is_an_error_with_the_right_ones():
    with pytest.raises(
        ValueError, match=r"mode='max_sise' must be one of .*'sequential'\]\. Did you mean 'max_size'\?"
    ):
        CombinedLoader([A], "max_sise")


def test_next_needs_a_pass_that_was_begun():
    loader = CombinedLoader([A, B])
    with pytest.raises(RuntimeError, match=r"call iter\(combined_loader\) first"):
        next(loader)
    iter(loader)
    assert next(loader) == ([1, "x"], 0, 0)
    iter(loader)
    assert next(loader) == ([1, "x"], 0, 0)
    loader.reset()
    with pytest.raises(RuntimeError, match="first"):
        next(loader)


@pytest.mark.slow
def test_reset_ends_persistent_workers():
    inner = DataLoader(range(2), num_workers=1, persistent_workers=True)
    loader = CombinedLoader([inner])
    assert list(loader) == [([torch.tensor([index])], index, 0) for index in range(2)]
    [worker] = inner._iterator._workers
    loader.reset()
    worker.join(timeout=10)
    assert not worker.is_alive()


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
@pytest.mark.parametrize("stop", range(7))
def test_a_pass_goes_on_where_its_state_was_taken(mode, stop):
    def combined():
        return CombinedLoader({"a": Tape(4), "b": Tape(2)}, mode)

    whole = list(combined())
    loader = combined()
    iterator = iter(loader)
    taken = [next(iterator) for _ in range(min(stop, len(whole)))]
    state = loader.state_dict()
    resumed = combined()
    resumed.load_state_dict(state)
    assert taken + list(resumed) == whole


def test_there_is_no_state_unless_every_loader_has_one():
    assert CombinedLoader([Tape(2), A]).state_dict() is None
    assert CombinedLoader([]).state_dict() is None


def test_a_state_of_other_loaders_is_an_error():
    state = CombinedLoader([Tape(1), Tape(1)]).state_dict()
    with pytest.raises(ValueError, match="one of 2 loaders, but there are 3"):
        CombinedLoader([Tape(1), Tape(1), Tape(1)]).load_state_dict(state)


class Recorder(L.LightningModule):
    """Keeps the batches of the training and the (loader, batch) numbers of the validation."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.validated.append((dataloader_idx, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(trainer_options, train, val=None):
    model = Recorder()
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, **trainer_options}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**options, **quiet).fit(model, train, val)
    return model


def numbers(*values):
    return DataLoader(values, batch_size=None)


def test_the_trainer_gives_the_step_the_combined_batch():
    model = fitted({}, CombinedLoader({"a": numbers(1, 2, 3), "b": numbers(4, 5)}, "max_size_cycle"), numbers(1))
    assert model.batches == [{"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "b": 4}]


def test_the_trainer_combines_several_loaders_in_training():
    assert fitted({}, [numbers(1, 2, 3), numbers(4, 5)], numbers(1)).batches == [[1, 4], [2, 5], [3, 4]]


def test_the_trainer_runs_one_validation_loader_after_the_other():
    model = fitted({"limit_val_batches": 2}, numbers(1), [numbers(1, 2, 3), numbers(4)])
    assert model.validated == [(0, 0), (0, 1), (1, 0)]
