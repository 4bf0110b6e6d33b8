"""Whole runs on two ranks: where they stop, what they hand back, what they do about unlike data."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from dist.start import finish, start

pytestmark = pytest.mark.slow


def run(folder: Path, strategy: str, how: str, rank: int = 1) -> tuple[int, str]:
    return finish(start("trained.py", strategy, how, str(rank), folder=folder), timeout_s=100)


def done(folder: Path) -> list:
    return json.loads((folder / "done.json").read_text())


@pytest.mark.parametrize(
    ("strategy", "how", "rank"),
    [("ddp", "SIGTERM", 0), ("ddp", "SIGINT", 1), ("ddp", "SIGUSR1", 1), ("ddp_fork", "SIGTERM", 1), ("ddp", "val", 1)],
)
def test_all_ranks_stop_at_the_same_step_and_go_on_from_there(tmp_path, strategy, how, rank):
    code, output = run(tmp_path, strategy, how, rank)
    stopped = [json.loads((tmp_path / f"stopped{rank}.json").read_text()) for rank in range(2)]

    shells = (
        128 - code if code < 0 else code
    )  # a KeyboardInterrupt that nobody catches ends Python by the signal itself
    assert shells == 128 + getattr(signal, "SIGTERM" if how == "val" else how), output
    assert stopped[0] == stopped[1]
    assert f"Interrupted at global step {stopped[0]['steps']};" in output
    assert stopped[0]["steps"] < 80

    code, output = run(tmp_path, strategy, "even")
    assert code == 0, output
    assert done(tmp_path)[:3] == [80, True, True]


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_for_one_call_hand_back_what_the_run_came_to(tmp_path, strategy):
    code, output = run(tmp_path, strategy, "even")

    assert code == 0, output
    assert done(tmp_path) == [80, True, True, "last.ckpt", True]


def test_processes_for_one_call_train_as_those_that_stay(tmp_path):
    """The module came to them with weights in memory that they share."""
    weights = []
    for strategy in ("ddp", "ddp_spawn"):
        (tmp_path / strategy).mkdir()
        code, output = run(tmp_path / strategy, strategy, "even")
        assert code == 0, output
        weights.append((tmp_path / strategy / "weights.json").read_text())

    assert weights[0] == weights[1]


def test_streams_of_unlike_length_end_together(tmp_path):
    code, output = run(tmp_path, "ddp", "uneven")

    assert code == 0, output
    assert done(tmp_path)[0] == 6
    assert "Rank 0 has batches left when another rank has none" in output


def test_a_step_that_is_bad_on_one_rank_is_left_out_on_all(tmp_path):
    code, output = run(tmp_path, "ddp", "nan")

    assert code == 0, output
    assert done(tmp_path)[:3] == [80, True, True]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_ended_at_a_limit(tmp_path, rank, monkeypatch):
    monkeypatch.setenv("FULMEN_STALL_TIMEOUT", "24")
    code, output = run(tmp_path, "ddp", "hang", rank)

    assert code == 1
    assert (
        f"Stalled: no batch for 10 s at epoch 0, batch 10, global step 10, rank {rank} (train); in happen (" in output
    )
    assert "The other ranks wait for it, 24 s at most." in output
    assert f"rank {1 - rank} (train); waiting for rank {rank}, in main (" in output
    assert "Ended, as FULMEN_STALL_TIMEOUT=24 asks." in output


def test_a_rank_that_cannot_say_anything_is_named_by_one_that_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FULMEN_STALL_TIMEOUT", "24")
    code, output = run(tmp_path, "ddp", "stop", 1)

    assert code == 1
    assert "no batch for 20 s at epoch 0, batch 10, global step 10, rank 0 (train); waiting for rank 1, in " in output


def resumed(folder: Path, how: str) -> tuple[int, str]:
    return finish(start("resumed.py", how, folder=folder), timeout_s=60)


def both(folder: Path, name: str) -> list:
    return [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)]


def test_other_weights_on_one_rank_keep_all_from_stopping_within_validation(tmp_path):
    code, output = resumed(tmp_path, "others")

    assert code == 128 + signal.SIGTERM, output
    first, second = both(tmp_path, "stopped")
    assert first["validated"] == second["validated"] == 20  # all of the first validation
    [saved] = tmp_path.rglob("interrupted.ckpt")
    assert torch.load(saved)["state_dict"]["layer.weight"].tolist() == first["weights"] == second["weights"]


def test_all_ranks_go_on_in_the_folder_that_rank_zero_finds(tmp_path):
    code, _ = resumed(tmp_path, "falls")
    assert code == 1
    code, output = resumed(tmp_path, "even")

    assert code == 0, output
    first, second = both(tmp_path, "done")
    assert first == second
    assert first["folder"] == str(tmp_path / "lightning_logs" / "version_0" / "kept")
    assert first["from"].endswith("step=4.ckpt")
    assert first["steps"] == 12
