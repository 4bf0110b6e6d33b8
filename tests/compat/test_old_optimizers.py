"""Several optimizers under automatic optimization, optimizer hooks with older arguments, sequences that are cut."""

from __future__ import annotations

import pytest
import torch
from small import Net, make_trainer, numbers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fulmen as L
from fulmen.callbacks import Callback
from fulmen.errors import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Two(L.LightningModule):
    """Two layers of one weight each, with an optimizer for each; notes who had a turn."""

    frequencies: tuple[int, ...] = ()

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)
        self.turns = []

    def training_step(self, batch, batch_idx, optimizer_idx):
        self.turns.append((batch_idx, optimizer_idx, self.first.weight.requires_grad, self.second.weight.requires_grad))
        loss = (self.first(batch) * self.second(batch)).mean()
        return {"loss": loss, "log": {f"loss_{optimizer_idx}": loss}}

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(layer.parameters(), lr=0.125) for layer in (self.first, self.second)]
        if not self.frequencies:
            return optimizers, []
        return [{"optimizer": o, "frequency": f} for o, f in zip(optimizers, self.frequencies, strict=True)]


def fit(module, batches=2, **options):
    trainer = make_trainer(**options)
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(batches, 2)), collate_fn=lambda rows: rows[0][0][None]))
    return trainer


def by_hand(batches, accumulate=1):
    """The same training written out."""
    first, second = torch.ones(2), torch.ones(2)
    grads = [torch.zeros(2), torch.zeros(2)]
    for index in range(batches):
        for which in (0, 1):
            grads[which] += (second if which == 0 else first).sum() / accumulate
            if (index + 1) % accumulate == 0 or index == batches - 1:
                (first if which == 0 else second).sub_(0.125 * grads[which])
                grads[which] = torch.zeros(2)
    return first, second


# ---- several optimizers


def test_each_optimizer_has_its_turn_with_only_its_parameters():
    module = Two()

    trainer = fit(module)

    assert module.turns == [(0, 0, True, False), (0, 1, False, True), (1, 0, True, False), (1, 1, False, True)]
    assert module.first.weight.requires_grad
    assert module.second.weight.requires_grad
    assert set(trainer.callback_metrics) == {"loss_0", "loss_1", "loss"}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_weights_are_those_of_a_loop_by_hand(accumulate):
    module = Two()

    fit(module, 5, accumulate_grad_batches=accumulate)

    first, second = by_hand(5, accumulate)
    assert torch.allclose(module.first.weight[0], first)
    assert torch.allclose(module.second.weight[0], second)


def test_a_batch_is_one_global_step():
    assert fit(Two(), 6).global_step == 6
    assert fit(Two(), 6, accumulate_grad_batches=2).global_step == 3
    assert fit(Two(), 6, max_steps=4, max_epochs=-1).global_step == 4


def test_toggling_may_be_overridden_with_the_index():
    class Toggles(Two):
        def toggle_optimizer(self, optimizer, optimizer_idx):
            self.turns.append(optimizer_idx)

        def untoggle_optimizer(self, optimizer_idx):
            self.turns.append(-optimizer_idx)

    module = Toggles()
    fit(module, 1)

    assert module.turns == [0, (0, 0, True, True), 0, 1, (0, 1, True, True), -1]


def test_frequencies_give_each_optimizer_its_batches_over_the_epochs():
    module = Two()
    module.frequencies = (2, 1)

    trainer = fit(module, 4, max_epochs=2)

    assert [index for _, index, *_ in module.turns] == [0, 0, 1, 0, 0, 1, 0, 0]
    assert trainer.global_step == 8


def test_training_epoch_end_gets_a_list_for_each_optimizer():
    class Ended(Two):
        def training_epoch_end(self, outputs):
            self.outputs = outputs

    module = Ended()
    fit(module, 3)

    assert [len(one) for one in module.outputs] == [3, 3]
    assert module.outputs[0][0]["loss"].item() == 4.0

    module = Ended()
    module.frequencies = (2, 1)
    fit(module, 3)
    assert [len(one) for one in module.outputs] == [2, 1]


def test_an_optimizers_step_that_returns_none_leaves_its_weights():
    class Skips(Two):
        def training_step(self, batch, batch_idx, optimizer_idx):
            return None if optimizer_idx == 1 else super().training_step(batch, batch_idx, optimizer_idx)

    module = Skips()
    fit(module)

    assert module.second.weight.tolist() == [[1.0, 1.0]]
    assert module.first.weight.tolist() == [[0.5, 0.5]]


def test_the_last_parameter_may_have_any_name_and_star_args_get_the_index_too():
    class Named(Two):
        def training_step(self, batch, batch_nb, optimizer_i):
            return super().training_step(batch, batch_nb, optimizer_i)

    class Starred(Two):
        def training_step(self, *args):
            return super().training_step(*args)

    for kind in (Named, Starred):
        module = kind()
        fit(module, 1)
        assert [index for _, index, *_ in module.turns] == [0, 1]


def test_one_optimizer_with_an_index_gets_zero():
    class One(Net):
        def training_step(self, batch, batch_idx, optimizer_idx):
            self.index = optimizer_idx
            return self(batch).mean()

    module = One()
    assert fit(module).global_step == 2
    assert module.index == 0


def test_manual_optimization_with_an_index():
    class Manual(Two):
        automatic_optimization = False

        def training_step(self, batch, batch_idx, optimizer_idx):
            assert optimizer_idx == 0
            for optimizer in self.optimizers():
                loss = (self.first(batch) * self.second(batch)).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    assert fit(Manual(), 3).global_step == 6


def test_several_optimizers_without_an_index_are_still_an_error():
    class Without(Two):
        def training_step(self, batch, batch_idx):
            return self.first(batch).mean()

    with pytest.raises(MisconfigurationException, match="manual optimization"):
        fit(Without())


def test_the_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    def module():
        made = Two()
        made.frequencies = (2, 1)
        return made

    whole, rest = module(), module()
    fit(whole, 5, callbacks=[Saves()], max_epochs=2)
    trainer = make_trainer(max_epochs=2)
    data = DataLoader(TensorDataset(torch.ones(5, 2)), collate_fn=lambda rows: rows[0][0][None])
    trainer.fit(rest, data, ckpt_path=tmp_path / "a.ckpt")

    assert rest.turns == whole.turns[3:]
    assert torch.equal(rest.first.weight, whole.first.weight)
    assert torch.equal(rest.second.weight, whole.second.weight)


# ---- hooks of the optimizer with older arguments


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


# ---- truncated backpropagation through time


class Cut(Net):
    """Sums what it sees into its hidden state."""

    truncated_bptt_steps = 2

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx, hiddens):
        x, y = batch
        before = 0.0 if hiddens is None else hiddens
        assert not getattr(before, "requires_grad", False)
        hidden = before + self.layer(x).sum()
        self.seen.append((x.shape[1], float(before), hidden.item()))
        return {"loss": hidden, "hiddens": hidden, "log": {"y": y.sum()}}


def sequences(batches=1):
    return DataLoader(TensorDataset(torch.ones(batches, 5, 2), torch.ones(batches, 5)))


def test_a_sequence_is_cut_and_its_hidden_state_handed_on_detached():
    module = Cut()

    trainer = make_trainer()
    trainer.fit(module, sequences(2))

    assert [n for n, *_ in module.seen] == [2, 2, 1, 2, 2, 1]
    assert [before for _, before, _ in module.seen] == [0.0, 4.0, 8.0, 0.0, 4.0, 8.0]
    assert trainer.global_step == 2


def test_the_module_may_cut_the_batch_itself():
    class Own(Cut):
        def tbptt_split_batch(self, batch, split_size):
            x, y = batch
            return [(x[:, :split_size], y), (x[:, split_size:], y)]

    module = Own()
    make_trainer().fit(module, sequences())

    assert [n for n, *_ in module.seen] == [2, 3]


def test_the_hidden_state_comes_after_the_optimizers_index():
    class Both(Two):
        truncated_bptt_steps = 1

        def training_step(self, batch, batch_idx, optimizer_idx, hiddens):
            self.turns.append((optimizer_idx, hiddens))
            loss = (self.first(batch) * self.second(batch)).mean()
            return {"loss": loss, "hiddens": len(self.turns)}

    module = Both()
    make_trainer().fit(module, DataLoader(torch.ones(1, 2, 2)))

    assert module.turns == [(0, None), (1, 1), (0, 2), (1, 3)]


def test_parts_of_unequal_length_are_named():
    module = Cut()

    with pytest.raises(MisconfigurationException, match=r"\[4, 5\] time steps"):
        make_trainer().fit(module, DataLoader(TensorDataset(torch.ones(1, 5, 2), torch.ones(1, 4))))
