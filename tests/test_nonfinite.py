"""NaN and infinity are noticed before they reach the weights or a checkpoint, and what went bad first is named."""

from __future__ import annotations

import warnings

import pytest
import torch
from small import make_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen.callbacks import ModelCheckpoint
from fulmen.errors import NonFiniteError

BAD = 5


class Spoiler(nn.Module):
    on = False

    def forward(self, x):
        return x * float("nan") if self.on else x


class Net(L.LightningModule):
    """In batch 5 of epoch 0 something goes bad: the data, a module, or a gradient only."""

    def __init__(self, how: str, manual: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), Spoiler(), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.how, self.automatic_optimization = how, not manual

    def training_step(self, batch, batch_idx):
        x, bad = batch[0], batch_idx == BAD and self.current_epoch == 0
        if bad and self.how == "data":
            x = x.fill_(float("nan"))
        self.net[1].on = bad and self.how == "module"
        loss = self.net(x).square().mean()
        if bad and self.how == "gradient":
            loss = loss + torch.sqrt((self.net[0].weight * 0).sum())
        if bad and self.how == "infinite":
            loss = loss * float("inf")
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()
            self.optimizers().zero_grad()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def data() -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(80, 4)), batch_size=8)


def finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def fit(module: Net, **options) -> L.Trainer:
    trainer = make_trainer(max_epochs=2, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(module, data())
    trainer.told = [str(warning.message) for warning in told if "NaN" in str(warning.message)]
    return trainer


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("data", "the batch itself holds some; the first gradient is that of net.0.weight"),
        ("module", r"first in the output of net.1 \(Spoiler\); the first gradient is that of net.0.weight"),
        ("infinite", "first in the gradient of net.0.weight"),
    ],
)
@pytest.mark.parametrize("mode", [None, "stop"])
def test_a_bad_loss_stops_before_the_weights_are_touched(how, cause, mode):
    module = Net(how)
    with pytest.raises(NonFiniteError, match=f"epoch 0, batch 5, global step 5: {cause}"):
        fit(module, nonfinite=mode)

    assert all(bool(torch.isfinite(value).all()) for value in module.parameters())


def test_a_bad_gradient_under_a_good_loss_is_noticed_a_step_later_or_by_choice_at_once():
    with pytest.raises(NonFiniteError, match=r"batch 6, global step 6: net.0.weight held some before this step"):
        fit(Net("gradient"))
    module = Net("gradient")
    with pytest.raises(NonFiniteError, match=r"batch 5, global step 5: first in the gradient of net.0.weight"):
        fit(module, nonfinite="stop")

    assert finite(module)


@pytest.mark.parametrize("how", ["data", "module", "gradient"])
@pytest.mark.parametrize("manual", [False, True])
def test_a_step_can_be_left_out(how, manual):
    module = Net(how, manual)
    trainer = fit(module, nonfinite="skip")

    assert finite(module)
    assert trainer.global_step == 20
    assert len(trainer.told) == 1
    assert "this step is left out" in trainer.told[0]


class Sparse(Net):
    """Its gradients are sparse, with several parts for one row."""

    def __init__(self) -> None:
        super().__init__("nothing")
        self.net = nn.EmbeddingBag(3, 2, sparse=True, mode="sum")

    def training_step(self, batch, batch_idx):
        loss = self.net(torch.tensor([[1, 1], [2, 1]])).square().mean()
        return loss * float("nan") if batch_idx == BAD and self.current_epoch == 0 else loss

    def configure_optimizers(self):
        return torch.optim.SparseAdam(self.parameters(), lr=0.01)


def test_sparse_gradients_too():
    module = Sparse()
    with pytest.raises(NonFiniteError, match=r"batch 5, global step 5: first in the gradient of net.weight"):
        fit(module, nonfinite="stop")
    trainer = fit(module, nonfinite="skip")
    assert "this step is left out" in trainer.told[0]
    assert finite(module)


def test_weights_are_taken_back_from_the_last_checkpoint():
    class Module(Net):
        def on_train_batch_start(self, batch, batch_idx):
            if self.current_epoch == 0 and batch_idx == BAD + 1:
                saved = torch.load("ckpt/last.ckpt")
                assert all(torch.equal(value, saved["state_dict"][key]) for key, value in self.state_dict().items())

    module = Module("module")
    kept = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=2, save_last=True)
    trainer = fit(module, nonfinite="rewind", callbacks=[kept], enable_checkpointing=True)

    assert finite(module)
    assert trainer.global_step == 20
    assert "Back to the weights of" in trainer.told[0]


def test_without_a_checkpoint_there_is_no_way_back():
    with pytest.raises(NonFiniteError, match=r"no checkpoint to go back to yet.*every_n_train_steps"):
        fit(Net("module"), nonfinite="rewind")


def test_a_warning_is_given_once():
    trainer = fit(Net("gradient"), nonfinite="warn")

    assert len(trainer.told) == 1
    assert trainer.global_step == 20


def test_torchs_own_search_tells_the_place_too():
    with pytest.raises(NonFiniteError, match=r"'MulBackward0' returned nan values.*epoch 0, batch 5, global step 5"):
        fit(Net("gradient"), detect_anomaly=True)


def test_a_checkpoint_never_holds_bad_weights():
    class Module(Net):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 3:
                torch.nn.init.constant_(self.net[3].bias, float("inf"))

    kept = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=2, save_last=True)
    with pytest.raises(NonFiniteError, match=r"net.3.bias holds NaN or infinite values, so saving"):
        fit(Module("nothing"), callbacks=[kept], enable_checkpointing=True)

    assert torch.load("ckpt/last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("spoiled", [None, "mean", "net.0.weight"])
def test_what_is_infinite_from_the_start_may_stay_so(spoiled):
    """A causal mask is; what was finite, or is trained, must stay finite."""

    class Module(Net):
        def __init__(self) -> None:
            super().__init__("nothing")
            self.register_buffer("mask", torch.full((3,), -torch.inf))
            self.register_buffer("later", None)
            self.register_buffer("mean", torch.zeros(3))
            self.table = torch.nn.Parameter(torch.full((2,), torch.nan), requires_grad=False)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.later = self.mask.clone()
            if spoiled and batch_idx == 1:
                torch.nn.init.constant_(self.state_dict()[spoiled], float("nan"))

    kept = [ModelCheckpoint(dirpath="ckpt", every_n_train_steps=2)]
    if spoiled:
        with pytest.raises(NonFiniteError, match=rf"{spoiled} holds NaN or infinite values, so saving"):
            fit(Module(), callbacks=kept, enable_checkpointing=True)
    else:
        fit(Module(), callbacks=kept, enable_checkpointing=True)
        assert torch.load(kept[0].best_model_path)["state_dict"]["later"].isinf().all()


def test_layers_whose_size_the_first_batch_tells_hold_nothing_yet():
    class Module(Net):
        def __init__(self) -> None:
            super().__init__("nothing")
            self.net[0] = nn.LazyLinear(4)

    assert fit(Module(), resume="auto", enable_checkpointing=True).global_step == 20


@pytest.mark.parametrize(("kind", "large"), [(torch.float32, 3e38), (torch.float16, 6e4)])
def test_weights_whose_squares_are_too_large_are_good(kind, large):
    class Module(Net):
        def on_train_end(self):
            torch.nn.init.constant_(self.to(kind).net[3].bias, large)
            self.trainer.save_checkpoint("large.ckpt")

    fit(Module("nothing"))
    assert torch.load("large.ckpt")["state_dict"]["net.3.bias"].tolist() == [pytest.approx(large, rel=1e-3)]


@pytest.mark.parametrize("spoiled", [False, True])
def test_losses_on_a_device_are_looked_at_in_groups(spoiled):
    """What a GPU's losses go through, a group behind the device."""

    class Module(Net):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            value = float("nan") if self.trainer.progress.batches == 70 else 1.0
            if spoiled and self.trainer.progress.batches == 65:
                torch.nn.init.constant_(self.net[3].bias, float("nan"))
            self.trainer.step.guard.hold(torch.tensor(value))
            self.trainer.step.suspect = False

    module = Module("nothing")
    trainer = make_trainer(max_epochs=20, nonfinite="warn" if not spoiled else None)
    if not spoiled:
        with pytest.warns(UserWarning, match="loss of batch 69, counted over all epochs, was NaN"):
            trainer.fit(module, data())
        return
    module.training_step = lambda batch, batch_idx: module.net[0](batch[0]).mean()
    with pytest.raises(NonFiniteError, match=r"loss of batch 69, .* net.3.bias is by now \(batch 70"):
        trainer.fit(module, data())


def test_a_validation_metric_that_is_not_finite_is_told_once():
    class Module(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_score", float("nan"))

    trainer = make_trainer(max_epochs=3)
    with pytest.warns(UserWarning, match="Validation gave val_score=nan; the weights are finite") as told:
        trainer.fit(Module("nothing"), data(), data())
    assert len([one for one in told if "val_score" in str(one.message)]) == 1


def test_it_is_a_value_error_as_well():
    assert issubclass(NonFiniteError, ValueError)
