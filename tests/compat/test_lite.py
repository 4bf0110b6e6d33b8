from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen
from fulmen.compat import install
from fulmen.compat.lite import LightningLite
from fulmen.precision import MixedPrecision


def test_every_old_path_has_the_same_class():
    install()

    for path in ("pytorch_lightning.lite", "pytorch_lightning.lite.lite", "lightning.lite", "lightning_lite.lite"):
        assert importlib.import_module(path).LightningLite is LightningLite
    import pytorch_lightning as pl
    from lightning_lite.utilities.seed import seed_everything

    assert pl.lite.lite.LightningLite is LightningLite
    assert seed_everything is fulmen.seed_everything


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))
ROWS = TensorDataset(X, X.sum(1, keepdim=True))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class Trains(LightningLite):
    """Three epochs, on batches that are drawn anew in each."""

    def run(self, epochs: int = 3) -> Any:
        model = net()
        loader = self.setup_dataloaders(DataLoader(ROWS, batch_size=4, shuffle=True))
        model, optimizer = self.setup(model, torch.optim.Adam(model.parameters(), lr=0.1))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                self.backward(nn.functional.mse_loss(model(x), y))
                optimizer.step()
            scheduler.step()
        return model


def by_hand(format: Any = None) -> nn.Module:
    model = net()
    loader = DataLoader(ROWS, batch_size=4, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", format or torch.bfloat16, enabled=format is not None, cache_enabled=False):
                prediction = model(x.to(format or x.dtype))
            nn.functional.mse_loss(prediction.float(), y).backward()
            optimizer.step()
        scheduler.step()
    return model


@pytest.mark.filterwarnings("ignore:precision='bf16' is an old spelling")
@pytest.mark.parametrize(("precision", "format"), [(32, None), ("bf16", torch.bfloat16)])
def test_a_loop_by_hand_has_the_same_weights_to_the_bit(precision, format):
    model = Trains(precision=precision).run()
    assert same(model.module, by_hand(format))
    assert not same(model.module, net())


def test_the_loss_is_scaled_and_a_step_with_gradients_that_are_not_finite_is_left_out():
    class Scaled(LightningLite):
        def run(self) -> None:
            model, optimizer = self.setup(
                weight := nn.Linear(1, 1, bias=False), torch.optim.SGD(weight.parameters(), 1)
            )
            before = model.weight.item()
            seen = optimizer.step(lambda: self.backward(loss := model(torch.ones(1, 1)).sum()) or loss)
            assert (model.weight.item(), model.weight.grad.item()) == (before - 1, 1)
            assert seen.item() == pytest.approx(before, 0.01)
            self.backward(model(torch.ones(1, 1)).sum() * torch.inf)
            optimizer.step()
            assert model.weight.item() == before - 1

    Scaled(plugins=MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))).run()


class Sees(nn.Linear):
    def forward(self, x: Tensor, more: dict[str, Any]) -> Any:
        self.seen = (x.dtype, more["x"].dtype, more["label"].dtype)
        return {"y": super().forward(x), "label": more["label"]}


@pytest.mark.filterwarnings("ignore:precision=.* is an old spelling")
@pytest.mark.parametrize(("precision", "format"), [(32, "float32"), (64, "float64"), ("bf16", "bfloat16")])
def test_a_model_gets_the_precisions_numbers_and_returns_the_usual_ones(precision, format):
    lite, format = Trains(precision=precision), getattr(torch, format)
    weights = torch.float64 if precision == 64 else torch.float32
    model = lite.setup(Sees(2, 2))
    labels = torch.ones(1, dtype=torch.int64)
    output = model(torch.ones(1, 2, dtype=torch.float64), more={"x": torch.ones(1), "label": labels})

    assert model.seen == (format, format, torch.int64)
    assert (output["y"].dtype, output["label"].dtype, model.weight.dtype) == (torch.float32, torch.int64, weights)
    with lite.autocast():
        inside = model.module(torch.ones(1, 2, dtype=weights), {"x": labels, "label": labels})["y"].dtype
    assert inside == format


def test_two_models_with_two_optimizers_go_as_by_hand():
    def play(lite: LightningLite | None) -> list[nn.Module]:
        torch.manual_seed(5)
        models: list[Any] = [nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))]
        optimizers: list[Any] = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
        if lite is not None:
            for i in range(2):
                models[i], optimizers[i] = lite.setup(models[i], optimizers[i])
        backward = Tensor.backward if lite is None else lite.backward
        (maker, judge), (makers, judges) = models, optimizers
        for _ in range(5):
            made, real = maker(torch.randn(4, 2)), torch.randn(4, 3)
            judges.zero_grad()
            backward((judge(real) - 1).square().mean() + judge(made.detach()).square().mean())
            judges.step()
            makers.zero_grad()
            backward((judge(made) - 1).square().mean())
            makers.step()
        return [getattr(model, "module", model) for model in models]

    class Plays(LightningLite):
        def run(self) -> Any:
            return play(self)

    assert all(map(same, Plays().run(), play(None)))


class Parcel(Tensor):
    """A tensor that tells where it was brought."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return ("brought", args[0])


def test_batches_and_models_are_brought_to_the_device_unless_told_otherwise():
    lite = Trains()
    made = DataLoader(range(4), batch_size=2, collate_fn=lambda items: {"x": torch.tensor(items).as_subclass(Parcel)})
    first, second = lite.setup_dataloaders(made, made)
    kept = lite.setup_dataloaders(made, move_to_device=False)

    assert [batch["x"] for batch in first] == [("brought", lite.device)] * 2 == [batch["x"] for batch in second]
    assert [type(batch["x"]) for batch in kept] == [Parcel] * 2
    assert (len(first), first.dataset, first.batch_size) == (2, range(4), 2)

    class Placed(nn.Linear):
        def to(self, *args: Any) -> Any:
            self.brought = args
            return self

    assert lite.setup(Placed(1, 1)).brought == (lite.device,)
    assert not hasattr(lite.setup(Placed(1, 1), move_to_device=False), "brought")
    assert lite.to_device([torch.ones(1).as_subclass(Parcel)]) == [("brought", lite.device)]


def test_a_wrapped_model_shows_its_own():
    model = Trains().setup(inner := Sees(2, 2))
    again = copy.deepcopy(model)

    assert model.module is inner
    assert list(model.state_dict()) == ["weight", "bias"]
    assert (model.in_features, model.device) == (2, torch.device("cpu"))
    assert again.module is not inner
    assert same(again, model)
    model.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert inner.bias.tolist() == [1, 1]
    assert not model.eval().module.training
    with pytest.raises(AttributeError, match="wieght"):
        model.wieght  # noqa: B018


def test_what_is_saved_is_loaded_and_read_by_torch():
    lite, model = Trains(), net()
    optimizer = lite.setup_optimizers(torch.optim.Adam(model.parameters()))
    lite.save({"model": lite.setup(model).state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, "all.ckpt")
    lite.save(model.state_dict(), Path("folder/model.pt"))

    kept, there = lite.load("all.ckpt"), torch.load("all.ckpt", weights_only=True)
    assert kept["epoch"] == there["epoch"] == 3
    assert all(torch.equal(kept["model"][name], value) for name, value in there["model"].items())
    optimizer.load_state_dict(kept["optimizer"])
    net().load_state_dict(lite.load("folder/model.pt"))
    torch.save({"code": Trains}, "code.pt")
    with pytest.raises(Exception, match="weights_only=False"):
        lite.load("code.pt")
    assert lite.load("code.pt", weights_only=False)["code"] is Trains


def test_run_calls_what_it_overrides_and_launch_calls_a_function():
    class More(Trains):
        def run(self, epochs: int) -> Any:  # pyright: ignore
            return super().run(epochs), self.world_size

    assert type(More().run(0)[0]).__name__ == "LiteModule"
    assert LightningLite().launch(lambda lite, *numbers: (lite.global_rank, sum(numbers)), 2, 3) == (0, 5)


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: LightningLite().run(), TypeError, r"no run\(\)"),
        (
            lambda: Trains(devices=2).setup(nn.Linear(1, 1)),
            RuntimeError,
            r"setup\(\) over 2 processes works within run",
        ),
        (lambda: Trains(devices=2).setup_dataloaders(DataLoader([])), RuntimeError, "2 processes works within run"),
        (lambda: Trains(devices=2, strategy="ddp_spawn").launch(), ValueError, "'ddp_spawn' starts processes for a"),
        (lambda: Trains().setup(Trains().setup(nn.Linear(1, 1))), ValueError, "made ready before"),
        (lambda: Trains().setup_dataloaders(Trains().setup_dataloaders(DataLoader([]))), ValueError, "ready before"),
        (lambda: Trains().setup_dataloaders([1]), TypeError, "takes a torch DataLoader, not list"),
        (lambda: Trains().setup(nn.Linear(1, 1), 0.1), TypeError, "takes a torch Optimizer, not float"),
        (lambda: Trains().no_backward_sync(nn.Linear(1, 1)), TypeError, r"pass the model that setup\(\) returned"),
        (lambda: Trains(strategy="dpp"), ValueError, "strategy='dpp' must be one of"),
        (lambda: Trains(accelerator="gppu"), ValueError, "Did you mean 'gpu'"),
        (lambda: Trains(strategy="deepspeed"), ValueError, "'deepspeed' is not there yet"),
        (lambda: Trains(gpus=99), ValueError, "gpus=99 asks for 99 GPUs; this machine has"),
        (lambda: Trains(tpu_cores=8), ValueError, "tpu_cores=8 asks for TPUs"),
        (lambda: Trains(num_processes=2), TypeError, "num_processes"),
    ],
)
def test_what_cannot_be_is_said(use, error, words):
    with pytest.raises(error, match=words):
        use()


def test_an_old_word_is_said_as_lites():
    with pytest.warns(UserWarning, match=r"^LightningLite\(gpus=0\) is spelled accelerator='cpu' today\.$"):
        assert Trains(gpus=0).device == torch.device("cpu")
