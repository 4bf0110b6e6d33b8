"""Names that meant different things over the years: what the program says and imports tells which."""

from __future__ import annotations

import importlib

import pytest
import torch
from compat.optimizing import Two
from compat.optimizing import fit as fit_two
from small import Net, Validated, make_trainer, numbers

from fulmen import compat
from fulmen.callbacks import Callback
from fulmen.compat import devices

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

OF_1_6 = "pytorch_lightning.utilities.rank_zero"


def imports(*paths):
    compat.install()
    for path in paths:
        importlib.import_module(path)
    assert importlib.import_module("pytorch_lightning").Trainer


UNCOUNTED = [(0, 0, 0), (0, 0, 0), (1, 1, 1)]
COUNTED = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


@pytest.mark.parametrize(("paths", "seen"), [(None, UNCOUNTED), ((), UNCOUNTED), ((OF_1_6,), COUNTED)])
def test_until_1_6_a_batch_was_counted_after_hooks_that_asked_for_the_loaders_index(paths, seen, tmp_path):
    class Tau(Callback):
        seen = ()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
            self.seen = (*self.seen, pl_module.global_step)
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

        def on_batch_end(self, trainer, pl_module):
            self.seen = (*self.seen, trainer.global_step)

    class Asking(Net):
        seen = ()

        def on_train_batch_end(self, outputs, batch, batch_idx, dataloader_idx):
            self.seen = (*self.seen, self.global_step)

        def on_train_epoch_end(self):
            self.seen = (*self.seen, self.global_step)

    if paths is not None:
        imports(*paths)
    callback, module = Tau(), Asking()
    trainer = make_trainer(callbacks=[callback], accumulate_grad_batches=2)
    trainer.fit(module, numbers(3))

    assert list(zip(callback.seen[::2], module.seen[:3], callback.seen[1::2], strict=True)) == seen
    assert (module.seen[3], trainer.global_step) == (2, 2)
    for batch in (1, 2):  # the checkpoint knows that the batch is done
        resumed = make_trainer(max_epochs=2, accumulate_grad_batches=2)
        resumed.fit(Net(), numbers(3), ckpt_path=tmp_path / f"{batch}.ckpt")
        assert resumed.global_step == 4


@pytest.mark.parametrize(("path", "turns"), [(None, [0, 0, 1, 0, 0, 1, 0, 0]), (OF_1_6, [0, 0, 1, 0] * 2)])
def test_from_1_4_on_frequencies_began_anew_with_each_epoch(path, turns):
    imports(*[path] * (path is not None))
    module = Two()
    module.frequencies = (2, 1)
    fit_two(module, 4, max_epochs=2)

    assert [index for _, index, *_ in module.turns] == turns


@pytest.mark.parametrize(("path", "losses"), [(None, [0.0, 2.0, 4.0]), (OF_1_6, [0.0, 1.0, 2.0])])
def test_from_1_5_on_the_losses_of_an_epoch_were_parts_of_an_accumulated_one(path, losses):
    class Ended(Net):
        def training_epoch_end(self, outputs):
            self.losses = [one["loss"].item() for one in outputs]

    imports(*[path] * (path is not None))
    module = Ended()
    make_trainer(accumulate_grad_batches=2).fit(module, numbers(3))

    assert module.losses == losses


def test_from_1_2_on_epochs_of_the_evaluation_were_epochs_too():
    class Noting(Validated):
        def __init__(self):
            super().__init__()
            self.noted = []

        def on_epoch_start(self):
            self.noted.append("start")

        def on_epoch_end(self):
            self.noted.append("end")

        def on_validation_epoch_end(self):
            self.noted.append("validation")

    def noted(verb="fit"):
        module = Noting()
        getattr(make_trainer(), verb)(module, *[numbers(1)] * (1 + (verb == "fit")))
        return module.noted

    imports()
    assert (noted(), noted("test")) == (["start", "validation", "end"], [])

    imports("pytorch_lightning.callbacks.timer")  # of 1.3
    assert noted() == ["start", "start", "validation", "end", "end"]
    assert noted("test") == ["start", "end"]


@pytest.mark.parametrize(
    ("path", "shares"), [(None, [0.5, 0.5, 1.0]), ("pytorch_lightning.callbacks.timer", [0.5, 0.5, 0.75])]
)
def test_until_1_2_computing_a_metric_ended_what_it_was_of(path, shares):
    imports(*[path] * (path is not None))
    metric = importlib.import_module("pytorch_lightning.metrics").Accuracy()
    right, wrong = torch.ones(2), torch.zeros(2)

    assert (metric(right, right).item(), metric(wrong, right).item()) == (1.0, 0.0)
    seen = [metric.compute().item(), metric.compute().item()]
    metric.update(right, right)
    metric.update(right, right) if path else None
    assert [*seen, metric.compute().item()] == shares


def test_until_2_0_an_interrupted_fit_ended_well(monkeypatch):
    monkeypatch.setattr(devices, "SAID", set())
    imports()

    class Interrupted(Net):
        def training_step(self, batch, batch_idx):
            raise KeyboardInterrupt

    class Old(Interrupted):
        def training_epoch_end(self, outputs):
            pass

    with pytest.raises(KeyboardInterrupt):
        make_trainer().fit(Interrupted(), numbers(1))
    make_trainer().fit(Old(), numbers(1))
    trainer = make_trainer(gpus=0)
    trainer.fit(Interrupted(), numbers(1))
    assert trainer.interrupted
    trainer.validate(Validated(), numbers(1))


@pytest.mark.parametrize("arguments", ["**named", "*, stage=None", "*args, stage"])
def test_setup_and_teardown_may_take_the_stage_by_name(arguments):
    scope = {"seen": []}
    note = "seen.append(format(locals().get('stage') or locals()['named']['stage'], ''))"
    exec(
        f"def hook(self, {arguments}):\n    {note}\ndef of_all(self, trainer, pl_module, {arguments}):\n    {note}",
        scope,
    )

    make_trainer(callbacks=[type("C", (Callback,), {"setup": scope["of_all"], "teardown": scope["of_all"]})()]).fit(
        type("M", (Net,), {"setup": scope["hook"], "teardown": scope["hook"]})(), numbers(1)
    )

    assert scope["seen"] == ["fit"] * 4


def test_hooks_that_read_the_extra_of_outputs_get_them_as_until_1_2():
    class Nested(Callback):
        seen = ()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
            self.seen = (*self.seen, (float(outputs[0][0].minimize), float(outputs[0][0]["extra"]["doubled"])))

        def on_train_epoch_end(self, trainer, pl_module, outputs):
            self.seen = (*self.seen, [[float(part["minimize"]) for part in batch] for batch in outputs[0]])

    class Returning(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "doubled": loss.detach() * 2}

    callback = Nested()
    make_trainer(callbacks=[callback]).fit(Returning(), numbers(2))

    assert callback.seen == ((0.0, 0.0), (2.0, 4.0), [[0.0], [2.0]])
