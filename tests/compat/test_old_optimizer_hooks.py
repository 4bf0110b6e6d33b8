"""Hooks of the optimizer with older arguments."""

from __future__ import annotations

import pytest
import torch
from compat.optimizing import Two, fit
from small import Net, Validated, make_trainer, numbers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Noted(Two):
    """Notes what its hooks get, the optimizer as its position."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def note(self, name, *arguments):
        positions = {id(o): i for i, o in enumerate(self.trainer.optimizers)}
        self.noted.append((name, *(positions.get(id(getattr(a, "_optimizer", a)), a) for a in arguments)))


def test_hooks_get_the_optimizers_index():
    class Hooked(Noted):
        def optimizer_zero_grad(self, epoch, batch_idx, optimizer, optimizer_idx):
            self.note("zero_grad", epoch, batch_idx, optimizer, optimizer_idx)
            optimizer.zero_grad()

        def on_before_optimizer_step(self, optimizer, optimizer_idx):
            self.note("before", optimizer, optimizer_idx)

        def backward(self, loss, optimizer, optimizer_idx):
            self.note("backward", loss.item(), optimizer, optimizer_idx)
            loss.backward()

        def configure_gradient_clipping(self, optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm):
            self.note("clip", optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm)

    module = Hooked()
    fit(module, 1, gradient_clip_val=2.0)

    assert [one for one in module.noted if one[-1] != 1] == [
        ("zero_grad", 0, 0, 0, 0), ("backward", 4.0, 0, 0), ("before", 0, 0), ("clip", 0, 0, 2.0, None),
        ("clip", 1, 1, 2.0, None),
    ]  # fmt: skip
    assert ("before", 1, 1) in module.noted
    assert module.first.weight.tolist() == [[0.75, 0.75]]


@pytest.mark.parametrize(
    "arguments", ["trainer, loss, optimizer, optimizer_idx", "use_amp, loss, optimizer", "loss, *args"]
)
def test_backward_of_every_day(arguments):
    scope = {}
    exec(f"def backward(self, {arguments}):\n    self.seen = dict(locals())\n    loss.backward()\n", {}, scope)
    module = type("Backward", (Net,), scope)(lr=0.5)

    trainer = make_trainer()
    trainer.fit(module, numbers(2))

    assert module.layer.weight.tolist() == [[0.5, 0.5]]
    if "use_amp" in arguments:
        assert (module.seen["use_amp"], module.seen["optimizer"]) == (False, trainer.optimizers[0])
    if "trainer" in arguments:
        assert (module.seen["trainer"], module.seen["optimizer_idx"]) == (trainer, 0)


def test_lr_scheduler_step_gets_the_optimizers_index():
    class Scheduled(Noted):
        def configure_optimizers(self):
            optimizers, _ = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.StepLR(one, 1) for one in optimizers]

        def lr_scheduler_step(self, scheduler, optimizer_idx, metric):
            self.note("scheduler", optimizer_idx, metric)
            scheduler.step()

    module = Scheduled()
    fit(module)

    assert module.noted == [("scheduler", 0, None), ("scheduler", 1, None)]


def test_optimizer_step_with_a_closure_and_the_flags():
    class Stepped(Noted):
        def optimizer_step(
            self, epoch=None, batch_idx=None, optimizer=None, optimizer_idx=None, optimizer_closure=None, on_tpu=None,
            using_native_amp=None, using_lbfgs=None,
        ):  # fmt: skip
            self.note("step", epoch, batch_idx, optimizer, optimizer_idx, on_tpu, using_native_amp, using_lbfgs)
            if optimizer_idx == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    module = Stepped()
    fit(module, 1)

    assert module.noted == [("step", 0, 0, 0, 0, False, False, False), ("step", 0, 0, 1, 1, False, False, False)]
    assert module.first.weight.tolist() == [[0.75, 0.75]]
    assert module.second.weight.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("arguments", ["**named", "epoch, *, optimizer_idx=None, **named", "epoch, batch_idx, **named"])
def test_optimizer_step_by_name(arguments):
    def step(given):
        given |= given["named"]
        assert [given[name] for name in ("epoch", "batch_idx", "optimizer_idx", "on_tpu")] == [0, 0, 0, False]
        given["optimizer"].step(closure=given["optimizer_closure"])

    scope = {"step": step}
    exec(f"def optimizer_step(self, {arguments}):\n    step(dict(locals()))\n", scope, scope)
    module = type("Named", (Net,), {"optimizer_step": scope["optimizer_step"]})(lr=0.5)
    make_trainer().fit(module, numbers(1))

    assert module.layer.weight.tolist() == [[1.0, 1.0]]
    assert module.layer.bias.tolist() == [-0.5]


@pytest.mark.parametrize(
    "arguments",
    [
        "epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu, using_lbfgs",
        "epoch, batch_idx, optimizer, optimizer_idx, closure, on_tpu=False, using_native_amp=False, using_lbfgs=False",
        "current_epoch, batch_nb, optimizer, optimizer_idx, closure",
        "epoch, batch_idx, optimizer, optimizer_closure",
        "epoch, batch_idx, optimizer, closure",
    ],
)
def test_optimizer_step_with_a_closure_of_every_day(arguments):
    closure = "optimizer_closure" if "optimizer_closure" in arguments else "closure"
    scope = {}
    exec(f"def optimizer_step(self, {arguments}):\n    optimizer.step(closure={closure})\n", {}, scope)
    module = type("Stepped", (Net,), scope)(lr=0.5)

    trainer = make_trainer()
    trainer.fit(module, numbers(2))

    assert module.layer.weight.tolist() == [[0.5, 0.5]]
    assert trainer.global_step == 2


@pytest.mark.parametrize("rest", ["*args", "**kwargs", "*args, **kwargs"])
def test_optimizer_step_that_hands_the_rest_on(rest):
    scope = {}
    exec(
        f"def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, {rest}):\n"
        f"    self.rest = dict(locals())\n    step(optimizer, {rest})\n",
        {
            "step": lambda optimizer, *args, optimizer_closure=None, **kwargs: optimizer.step(
                (*args, optimizer_closure)[0]
            )
        },
        scope,
    )
    module = type("Rest", (Net,), scope)(lr=0.5)

    make_trainer().fit(module, numbers(2))

    assert module.layer.weight.tolist() == [[0.5, 0.5]]


OLDEST = [
    "e, b, optimizer, optimizer_i",
    "e, b, optimizer, opt, second_order_closure=None",
    "epoch_nb, batch_nb, optimizer, optimizer_i",
    "current_epoch, batch_idx, optimizer, optimizer_i, second_order_closure=None",
    "current_epoch, batch_nb, optimizer, optimizer_idx, second_order_closure=None, on_tpu=False",
]


@pytest.mark.parametrize("arguments", OLDEST)
def test_the_oldest_optimizer_step_comes_behind_backward_and_clears_the_gradients_itself(arguments):
    """Every second batch makes a step, with the gradients of both."""
    scope = {}
    exec(
        f"def optimizer_step(self, {arguments}):\n"
        "    self.grads.append(self.layer.bias.grad.item())\n"
        "    if len(self.grads) % 2 == 0:\n"
        "        optimizer.step()\n        optimizer.zero_grad()\n",
        {},
        scope,
    )
    module = type("Oldest", (Net,), scope)(lr=0.25)
    module.grads = []

    trainer = make_trainer()
    trainer.fit(module, numbers(4))

    assert module.grads == [1.0, 2.0, 1.0, 2.0]
    assert module.layer.bias.tolist() == [-1.0]
    assert trainer.global_step == 4


def test_later_the_trainer_cleared_the_gradients_behind_optimizer_step():
    class Later(Net):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, second_order_closure=None, on_tpu=False,
                           using_native_amp=False, using_lbfgs=False):  # fmt: skip
            self.grad = self.layer.bias.grad.item()
            optimizer.step()

    module = Later(lr=0.25)
    make_trainer().fit(module, numbers(4))

    assert module.grad == 1.0


def test_the_oldest_optimizer_step_with_lbfgs_gets_the_closure():
    class Lbfgs(Net):
        calls = 0

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_i, second_order_closure=None):
            optimizer.step(second_order_closure)

        def training_step(self, batch, batch_idx):
            self.calls += 1
            return (self(batch) - 1).square().mean()

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=4)

    module = Lbfgs()
    make_trainer().fit(module, numbers(1))

    assert module.calls > 1
    assert module(torch.zeros(1, 2)).item() == pytest.approx(1.0)


def test_a_plateau_scheduler_waits_for_the_first_validation():
    class Waits(Validated):
        def validation_epoch_end(self, outputs):
            return {"val_loss": torch.tensor(1.0)}

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "val_loss"}

    trainer = make_trainer(max_epochs=4, check_val_every_n_epoch=2)
    trainer.fit(Waits(), numbers(2), numbers(1))

    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25
