import io
import os
import random
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fulmen.seed import capture, isolate_rng, part, pl_worker_init_function, reset_seed, restore, seed_everything
from fulmen.warn import rank_zero_only


def draw():
    """One number of each kind, and a normal one, of which Python and NumPy make two at a time."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.rand(2).tolist()]


class Noise(Dataset):
    """What a worker draws for each sample."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()], dtype=torch.float64)


def test_the_same_seed_gives_the_same_numbers():
    assert seed_everything(7) == 7
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_children_find_the_seed_in_the_environment():
    seed_everything(11, workers=True)
    assert (os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]) == ("11", "1")
    assert seed_everything() == 11
    assert os.environ["PL_SEED_WORKERS"] == "0"


def test_without_a_seed_it_is_zero(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    with pytest.warns(UserWarning, match="No seed found"):
        assert seed_everything() == 0


def test_a_seed_may_be_a_number_in_text():
    assert seed_everything("42") == 42


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_an_error(seed):
    with pytest.raises(ValueError, match=f"seed={seed} must be between 0 and 4294967295"):
        seed_everything(seed)


def test_a_seed_in_the_environment_that_is_no_number_is_an_error(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "lucky")
    with pytest.raises(ValueError, match="PL_GLOBAL_SEED='lucky' must be an integer"):
        seed_everything()


@pytest.mark.parametrize(("verbose", "messages"), [(True, ["Seed set to 3"]), (False, [])])
def test_the_seed_is_told_once_unless_unwanted(caplog, verbose, messages):
    seed_everything(3, verbose=verbose)
    assert caplog.messages == messages


def test_reset_seed_seeds_as_before():
    seed_everything(5, workers=True)
    first = draw()
    reset_seed()
    assert draw() == first
    assert os.environ["PL_SEED_WORKERS"] == "1"


def test_reset_seed_leaves_a_program_alone_that_was_never_seeded(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    reset_seed()
    assert torch.equal(torch.rand(1), expected)


def test_restored_states_go_on_where_they_were_captured():
    draw()
    random.gauss(0, 1)  # leaves the second of a pair waiting
    states = capture()
    expected = draw()
    draw()
    restore(states)
    assert draw() == expected


def test_captured_states_survive_a_file_of_plain_data():
    file = io.BytesIO()
    torch.save(capture(), file)
    expected = draw()
    file.seek(0)
    restore(torch.load(file, weights_only=True))
    assert draw() == expected


@pytest.mark.slow
def test_capturing_does_not_import_numpy_but_seeding_does():
    program = """
import sys, torch
from fulmen.seed import capture, seed_everything
for name in [name for name in sys.modules if name.split(".")[0] == "numpy"]:
    del sys.modules[name]
assert "numpy" not in capture()
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_happens_in_isolation_has_no_effect_on_the_numbers_after():
    states = capture()
    expected = draw()
    restore(states)
    with isolate_rng():
        seed_everything(1)
        draw()
    assert draw() == expected


def test_isolation_holds_through_an_exception():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="must be between"), isolate_rng():
        seed_everything(torch.rand(1).sub(2).int().item())
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_part_from_the_same_seed_and_do_so_again_in_a_second_run():
    def draws(rank):
        seed_everything(2**32 - 1, verbose=False)
        part(rank)
        return draw()

    assert all(len(set(kind)) == 3 for kind in zip(draws(0), draws(1), draws(2), strict=True))
    assert draws(1) == draws(1)


def in_worker(worker_id, rank=None, base_seed=100):
    """What a worker of a loader draws, whose epoch began with `base_seed`."""
    with isolate_rng():
        torch.manual_seed(base_seed + worker_id)  # what torch does before it calls the function
        pl_worker_init_function(worker_id, rank)
        return draw()


def test_workers_are_seeded_by_number_rank_and_epoch():
    draws = [in_worker(0, 0), in_worker(1, 0), in_worker(0, 1), in_worker(1, 1), in_worker(0, 0, base_seed=101)]
    for kind in zip(*draws, strict=True):
        assert len(set(kind)) == len(draws)
    assert in_worker(1, 0) == draws[1]


def test_a_worker_asks_for_the_rank_if_it_is_not_told():
    rank_zero_only.rank = 1
    assert in_worker(0) == in_worker(0, rank=1)


@pytest.mark.slow
def test_loader_workers_draw_other_numbers_in_each_epoch_and_the_same_in_a_second_run():
    def run():
        seed_everything(4, verbose=False)
        init = partial(pl_worker_init_function, rank=0)
        loader = DataLoader(Noise(), batch_size=1, num_workers=2, worker_init_fn=init)
        return [torch.cat([batch.flatten() for batch in loader]).tolist() for _ in range(2)]

    epochs = run()
    assert len({number for epoch in epochs for number in epoch}) == 2 * 4 * 3
    assert run() == epochs


@pytest.mark.gpu
def test_cuda_states_are_captured_once_cuda_is_in_use():
    torch.rand(1, device="cuda")
    states = capture()
    expected = torch.rand(3, device="cuda")
    restore(states)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    with isolate_rng():
        torch.rand(3, device="cuda")
    following = torch.rand(3, device="cuda")
    restore(states)
    torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), following)


@pytest.mark.gpu
@pytest.mark.slow
def test_capturing_does_not_start_cuda():
    program = "import torch; from fulmen.seed import capture; capture(); assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", program], check=True)
