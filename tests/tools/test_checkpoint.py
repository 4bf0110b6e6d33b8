"""`fulmen checkpoint`: what it shows of a file, and of the difference between two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fulmen.checkpoint import files
from fulmen.errors import CheckpointError
from fulmen.tools import checkpoint

STATE = {
    "epoch": 3,
    "global_step": 40,
    "state_dict": {"layer.weight": torch.ones(20, 10), "layer.bias": torch.zeros(20, dtype=torch.float16)},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(20, 10)}}, "param_groups": [{"lr": 0.1}]}],
    "hyper_parameters": {"width": 10, "name": "x" * 200},
    "callbacks": {"EarlyStopping": {"wait_count": 2}},
    "fulmen": {"version": 1},
}


def changed(path: str, **changes) -> str:
    files.write({**STATE, **changes}, path)
    return path


def test_show_tells_where_the_run_stood_and_what_is_kept_of_it():
    said = checkpoint.show(changed("a.ckpt"))
    for line in (
        "  stands at    epoch 3, global step 40",
        "    width: 10",
        "    EarlyStopping: {'wait_count': 2}",
        "  state_dict:  2 tensors, 220 numbers, 0.0 MiB",
        "    layer.weight: 20x10 float32",
        "    layer.bias: 20 float16",
        "  optimizer_states 1 tensors, 200 numbers, 0.0 MiB",
    ):
        assert line in said.splitlines()
    assert max(map(len, said.splitlines())) < 120


def test_show_counts_the_end_of_a_long_list():
    said = checkpoint.show(changed("a.ckpt", state_dict={f"w{i}": torch.zeros(1) for i in range(50)}))
    assert "    w39: 1 float32\n    ... and 10 more" in said


def test_verify_raises_for_an_altered_file_only():
    checkpoint.verify(changed("a.ckpt"))
    content = bytearray(Path("a.ckpt").read_bytes())
    content[content.index(torch.ones(200).numpy().tobytes())] ^= 1
    Path("a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'a.ckpt' is damaged"):
        checkpoint.verify("a.ckpt")


def test_equal_files_have_no_difference():
    nan = {"w": torch.tensor([float("nan"), 1.0])}
    assert checkpoint.diff(changed("a.ckpt"), changed("b.ckpt")) == ""
    assert checkpoint.diff(changed("a.ckpt", state_dict=nan), changed("b.ckpt", state_dict=nan)) == ""


def test_diff_names_each_leaf():
    weight = torch.ones(20, 10)
    weight[0, :3] = 1.5
    other = changed(
        "b.ckpt", epoch=4, state_dict={"layer.weight": weight, "new": torch.zeros(2)}, hyper_parameters={"width": "10"}
    )
    assert checkpoint.diff(changed("a.ckpt"), other).splitlines() == [
        "- state_dict.layer.bias: 20 float16",
        f"- hyper_parameters.name: '{'x' * 76}...",
        "+ state_dict.new: 2 float32",
        "~ epoch: 3 -> 4",
        "~ state_dict.layer.weight: 3 of 200 numbers differ, by up to 0.5",
        "~ hyper_parameters.width: 10 -> '10'",
    ]


def test_diff_tells_shapes_and_types():
    one = changed("a.ckpt", state_dict={"w": torch.zeros(2), "x": torch.zeros(2)})
    other = changed("b.ckpt", state_dict={"w": torch.zeros(3), "x": torch.zeros(2, dtype=torch.int64)})
    assert checkpoint.diff(one, other).splitlines() == [
        "~ state_dict.w: 2 float32 -> 3 float32",
        "~ state_dict.x: 2 float32 -> 2 int64",
    ]
