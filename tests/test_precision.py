"""Each precision trains like the loop that one would write by hand."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from fulmen.errors import MisconfigurationException
from fulmen.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision, choose

BATCHES = [torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1))


def trained(precision: Precision) -> list[torch.Tensor]:
    """The weights after some steps as a loop takes them."""
    model = precision.convert_module(small_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        with precision.forward_context():
            loss = model(precision.convert_input(batch)).square().mean()
        precision.scale(loss).backward()
        precision.unscale(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        precision.step(optimizer)
        optimizer.zero_grad()
    return list(model.parameters())


def trained_by_hand(dtype=torch.float32, autocast=None, scaler=None) -> list[torch.Tensor]:
    model = small_model().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            loss = model(batch.to(dtype)).square().mean()
        if scaler is None:
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
    return list(model.parameters())


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("32-true", {}),
        ("64-true", {"dtype": torch.float64}),
        ("bf16-true", {"dtype": torch.bfloat16}),
        ("16-true", {"dtype": torch.float16}),
        ("bf16-mixed", {"autocast": torch.bfloat16}),
    ],
)
def test_training_gives_the_weights_of_a_loop_written_by_hand(name, by_hand):
    ours, theirs = trained(choose(name, "cpu")), trained_by_hand(**by_hand)

    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


def test_scaled_training_gives_the_weights_of_a_scaled_loop_written_by_hand():
    ours = trained(MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0)))
    theirs = trained_by_hand(autocast=torch.float16, scaler=torch.amp.GradScaler("cpu", init_scale=256.0))

    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
def test_mixed_training_on_a_gpu_computes_in_16_bits(name, dtype):
    precision = choose(name, "cuda")
    layer = nn.Linear(8, 8, device="cuda")
    with precision.forward_context():
        output = layer(torch.randn(2, 8, device="cuda"))

    assert output.dtype == dtype
    assert precision.scales == (name == "16-mixed")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        (None, "32-true"), (32, "32-true"), ("32", "32-true"), ("32-true", "32-true"), (64, "64-true"),
        ("64", "64-true"), ("64-true", "64-true"), ("bf16-mixed", "bf16-mixed"), ("16-true", "16-true"),
        ("bf16-true", "bf16-true"),
    ],
)  # fmt: skip
def test_documented_spellings(spelling, name):
    assert choose(spelling, "cpu").precision == name


@pytest.mark.parametrize(("spelling", "name"), [(16, "16-mixed"), ("16", "16-mixed"), ("bf16", "bf16-mixed")])
def test_short_spellings_mean_mixed_and_say_so(spelling, name):
    with pytest.warns(UserWarning, match=f"{spelling!r} is an old spelling of {name!r}"):
        assert choose(spelling, "mps").precision == name


def test_16_bit_mixed_on_the_cpu_is_bfloat16_with_a_warning():
    with pytest.warns(UserWarning, match="'bf16-mixed' is used instead"):
        assert choose("16-mixed", "cpu").precision == "bf16-mixed"


@pytest.mark.parametrize("wrong", ["bf16-tru", 8, "fp32", True])
def test_a_wrong_precision_is_refused_with_the_right_ones(wrong):
    with pytest.raises(ValueError, match=r"must be one of 32-true, 64-true, 16-mixed.*"):
        choose(wrong, "cpu")


def test_a_wrong_precision_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'bf16-mixed'"):
        choose("bf16_mixed", "cpu")


def test_transformer_engine_is_not_there_yet():
    with pytest.raises(MisconfigurationException, match="not there yet"):
        choose("transformer-engine", "cuda")


def test_64_bits_are_refused_on_mps():
    with pytest.raises(MisconfigurationException, match="MPS"):
        choose("64-true", "mps")


def test_a_plugin_is_taken_and_excludes_the_argument():
    plugin = HalfPrecision("bf16-true")

    assert choose(None, "cpu", plugin) is plugin
    with pytest.raises(MisconfigurationException, match=r"'32-true'.*HalfPrecision"):
        choose("32-true", "cpu", plugin)


def test_plugins_check_their_precision():
    with pytest.raises(ValueError, match="must be one of 16-mixed, bf16-mixed"):
        MixedPrecision("16-true", "cpu")
    with pytest.raises(ValueError, match="must be one of 16-true, bf16-true"):
        HalfPrecision("16-mixed")
    with pytest.raises(ValueError, match="does not scale"):
        MixedPrecision("bf16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [(DoublePrecision(), torch.float64), (HalfPrecision(), torch.float16)])
def test_true_precisions_convert_what_floats_and_nothing_else(precision, dtype):
    batch = {"x": torch.ones(2), "y": [torch.arange(2), "text"], "z": torch.ones(1, dtype=torch.complex64)}
    converted = precision.convert_input(batch)

    assert converted["x"].dtype == dtype
    assert converted["y"][0].dtype == torch.int64
    assert converted["y"][1] == "text"
    assert converted["z"].dtype == torch.complex64


@pytest.mark.parametrize("context", ["forward_context", "init_context"])
def test_new_tensors_have_the_type_within_and_not_after(context):
    with getattr(DoublePrecision(), context)():
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32


def test_contexts_may_be_nested():
    precision = MixedPrecision("bf16-mixed", "cpu")
    with precision.forward_context():
        with precision.forward_context():
            pass
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_weights_that_change_within_the_step_are_used_at_once():
    layer = nn.Linear(2, 2, bias=False)
    with MixedPrecision("bf16-mixed", "cpu").forward_context():
        layer(torch.ones(1, 2)).sum().backward()
        with torch.no_grad():
            layer.weight.fill_(1.0)
        assert layer(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("name", ["32-true", "bf16-mixed"])
def test_step_moves_the_weights(name):
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones(1)

    assert choose(name, "cpu").step(optimizer) is True
    assert weight.item() == 0.0


def test_a_step_with_infinite_gradients_is_left_out_and_the_scale_halved():
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.scale(weight.sum() * float("inf")).backward()

    assert precision.step(optimizer) is False
    assert weight.item() == 1.0
    assert precision.scaler.get_scale() == 2.0

    optimizer.zero_grad()
    precision.scale(weight.sum()).backward()
    assert precision.step(optimizer) is True
    assert weight.item() == 0.0


def test_unscale_takes_the_scale_out_of_the_gradients():
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    weight = nn.Parameter(torch.ones(1))
    precision.scale(weight.sum() * 3).backward()

    assert weight.grad.item() == 192.0
    precision.unscale(torch.optim.SGD([weight], lr=1.0))
    assert weight.grad.item() == 3.0


def test_lbfgs_cannot_be_scaled():
    precision = MixedPrecision("16-mixed", "cpu")
    with pytest.raises(MisconfigurationException, match="LBFGS"):
        precision.step(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]))


def test_the_scale_is_part_of_the_state():
    old = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1))
    weight = nn.Parameter(torch.ones(1))
    old.scale(weight.sum()).backward()
    old.step(torch.optim.SGD([weight], lr=1.0))
    new = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", growth_interval=1))
    new.load_state_dict(copy.deepcopy(old.state_dict()))

    assert new.scale(torch.ones(1)).item() == 16.0
    assert new.state_dict() == old.state_dict()
    assert MixedPrecision("bf16-mixed", "cpu").state_dict() == Precision().state_dict() == {}


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        (Precision(), (False, False, False)),
        (DoublePrecision(), (True, True, False)),
        (MixedPrecision("bf16-mixed", "cpu"), (True, False, False)),
        (MixedPrecision("16-mixed", "cpu"), (True, False, True)),
    ],
)
def test_flags_say_what_a_step_needs(precision, flags):
    assert (precision.autocasts, precision.converts_input, precision.scales) == flags
