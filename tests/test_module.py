"""What a LightningModule can do by itself and within a run."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from small import Net, Validated, make_trainer, numbers
from torch import nn


def test_a_frozen_module_is_thawed_again():
    module = Net()
    module.freeze()
    assert not any(p.requires_grad for p in module.parameters())
    assert not module.training
    module.unfreeze()
    assert all(p.requires_grad for p in module.parameters())
    assert module.training


def test_device_and_dtype_follow_the_parameters():
    module = Net()
    assert (module.device, module.dtype) == (torch.device("cpu"), torch.float32)
    for change, dtype in ((module.double, torch.float64), (module.half, torch.float16), (module.float, torch.float32)):
        change()
        assert module.dtype is dtype
    assert module.to(torch.bfloat16).dtype is torch.bfloat16
    assert module.to("meta").device.type == "meta"


def test_without_a_trainer_there_are_answers_where_there_can_be():
    module = Net()
    assert (module.global_step, module.current_epoch, module.global_rank, module.local_rank) == (0, 0, 0, 0)
    assert (module.logger, module.loggers) == (None, [])
    with pytest.raises(RuntimeError, match="not attached to a Trainer"):
        _ = module.trainer
    with pytest.raises(RuntimeError, match="not attached to a Trainer"):
        module.optimizers()


def test_copies_and_pickles_leave_the_trainer_behind():
    module = Validated()
    trainer = make_trainer()
    trainer.fit(module, numbers(1), numbers(1))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin.layer.weight, module.layer.weight)
        with pytest.raises(RuntimeError, match="not attached"):
            _ = twin.trainer
    assert module.trainer is trainer


def test_modules_within_have_the_trainer_too():
    class Outer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.inner.trainer is self.trainer
            return super().training_step(batch, batch_idx)

    make_trainer().fit(Outer(), numbers(1))


def test_gathered_tensors_keep_their_shape_with_one_process():
    class Gathering(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.found = self.all_gather({"a": torch.ones(2), "b": [torch.tensor(1)]})
            return super().training_step(batch, batch_idx)

    module = Gathering()
    make_trainer().fit(module, numbers(1))
    assert module.found["a"].shape == (2,)
    assert module.found["b"][0].item() == 1


class Two(Net):
    """Manual optimization with two optimizers, and a parameter of both."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other, self.both = nn.Linear(2, 1), nn.Linear(2, 2)
        self.both.bias.requires_grad_(False)
        self.seen: list[list[bool]] = []

    def configure_optimizers(self) -> Any:
        shared = list(self.both.parameters())
        return [
            torch.optim.SGD([*self.layer.parameters(), *shared], lr=0.1),
            torch.optim.SGD([*self.other.parameters(), *shared], lr=0.1),
        ]

    def which(self) -> None:
        self.seen.append([m.weight.requires_grad for m in (self.layer, self.other, self.both)])


def test_toggling_leaves_gradients_to_one_optimizer():
    class Toggling(Two):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            self.toggle_optimizer(first)
            self.which()
            self.untoggle_optimizer(first)
            self.which()
            with second.toggle_model():
                self.which()
            self.which()
            with self.toggled_optimizer(second):
                self.which()
            first.step()

    module = Toggling()
    make_trainer().fit(module, numbers(1))
    everything, first, second = [True] * 3, [True, False, True], [False, True, True]
    assert module.seen == [first, everything, second, everything, second]
    assert not module.both.bias.requires_grad  # frozen by the user, and so it stays


@pytest.mark.parametrize(("algorithm", "expected"), [("norm", 1.0), ("value", 2**0.5), (None, 1.0)])
def test_clipping_by_hand(algorithm, expected):
    class Clipping(Two):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, _ = self.optimizers()
            self.manual_backward(self.layer(batch).sum() * 100)
            self.layer.bias.grad = None
            self.clip_gradients(first, gradient_clip_val=1.0, gradient_clip_algorithm=algorithm)
            self.norm = self.layer.weight.grad.norm().item()
            first.step()

    module = Clipping()
    make_trainer(limit_train_batches=1).fit(module, torch.utils.data.DataLoader(torch.ones(2, 2)))
    assert module.norm == pytest.approx(expected, abs=1e-4)


def test_every_step_of_every_optimizer_counts():
    class Stepping(Two):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.step()

    trainer = make_trainer(max_epochs=2)
    trainer.fit(Stepping(), numbers(3))
    assert trainer.global_step == 12


# ---- from a checkpoint


class Wider(Net):
    def __init__(self, lr: float = 0.0) -> None:
        super().__init__(lr)
        self.extra = nn.Linear(1, 1)


@pytest.fixture
def path(tmp_path: Any) -> Any:
    class Saved(Net):
        def __init__(self, lr: float = 0.3) -> None:
            super().__init__(lr)
            self.save_hyperparameters()

    trainer = make_trainer()
    trainer.fit(Saved(), numbers(2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_arguments_come_from_the_file_and_the_users_win(path):
    assert Net.load_from_checkpoint(path).lr == 0.3
    assert Net.load_from_checkpoint(path, lr=0.7).lr == 0.7
    assert Net.load_from_checkpoint(path, map_location=lambda storage, place: storage).device.type == "cpu"


def test_missing_weights_are_told_unless_loading_is_not_strict(path):
    with pytest.raises(RuntimeError, match="extra"):
        Wider.load_from_checkpoint(path)
    kept = Net.load_from_checkpoint(path).layer.weight
    with pytest.warns(UserWarning, match="in part. Missing keys: extra"):
        assert torch.equal(Wider.load_from_checkpoint(path, strict=False).layer.weight, kept)
    with pytest.raises(RuntimeError, match="extra"):
        make_trainer().validate(type("V", (Validated, Wider), {})(), numbers(1), ckpt_path=path)


def test_a_module_says_itself_that_its_loading_is_not_strict(path):
    class Loose(Validated, Wider):
        strict_loading = False

    with pytest.warns(UserWarning, match="extra"):
        make_trainer().validate(Loose(), numbers(1), ckpt_path=path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        Net.load_from_checkpoint(tmp_path / "none.ckpt")
