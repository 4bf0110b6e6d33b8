"""The order of hooks, and who is called with what."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from small import Net, Numbers, Rows, Validated, make_trainer, numbers
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from fulmen.callbacks.base import Checkpoint
from fulmen.errors import MisconfigurationException
from fulmen.hooks import CALLBACK_ONLY, MODULE_ONLY, SHARED

# Methods that are recorded too, but of which the trainer calls only those that somebody overrides.
STEPS = ("training_step", "validation_step", "test_step", "predict_step")
ASKED = ("configure_sharded_model", "lr_scheduler_step", "on_save_checkpoint", "on_load_checkpoint")
MODULE_HOOKS = [n for n in (*SHARED, *MODULE_ONLY, *STEPS) if n not in ASKED]
CALLBACK_HOOKS = [n for n in (*SHARED, *CALLBACK_ONLY) if n not in ASKED]
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
DATA_HOOKS = [
    *("prepare_data", "setup", "teardown", *TRANSFERS, "on_exception"),
    *(f"{stage}_dataloader" for stage in ("train", "val", "test", "predict")),
]
LOGGER_HOOKS = ["log_hyperparams", "log_graph", "log_metrics", "finalize"]


def recording(base: type, label: str, names: Any, calls: list[str]) -> Any:
    """A subclass of `base` that writes down each call of the hooks in `names`, as "<label> <name>"."""

    def recorder(name: str, inner: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(f"{label} {name}")
            return inner(self, *args, **kwargs)

        call.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
        return call

    return type(f"Recorded{base.__name__}", (base,), {name: recorder(name, getattr(base, name)) for name in names})


class Data(L.LightningDataModule):
    def __init__(self, train: int = 2) -> None:
        super().__init__()
        self.train = train

    def train_dataloader(self) -> Any:
        return DataLoader(Numbers(self.train, first=1))

    def val_dataloader(self) -> Any:
        return numbers(1)

    test_dataloader = predict_dataloader = val_dataloader


def parts(module: type = Validated, hooks: Any = MODULE_HOOKS, train: int = 2) -> tuple[list[str], Any, Any, Any]:
    """The list of calls, and a module, a datamodule and a callback that write into it."""
    calls: list[str] = []
    recorded = recording(module, "M", hooks, calls)
    data, callback = recording(Data, "D", DATA_HOOKS, calls), recording(L.Callback, "C", CALLBACK_HOOKS, calls)
    return calls, recorded(), data(train), callback()


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


def written(calls: list[str]) -> str:
    """The calls one below the other: a difference is easier to read than in a list."""
    return "\n".join(calls)


START = lines("""
    M configure_callbacks
    D prepare_data
    M prepare_data
    D setup
    C setup
    M setup
    M configure_model
""")
END = lines("""
    D teardown
    C teardown
    M teardown
""")
TRANSFER = lines("""
    D on_before_batch_transfer
    D transfer_batch_to_device
    D on_after_batch_transfer
""")
CLOSURE = lines("""
    M training_step
    C on_before_zero_grad
    M on_before_zero_grad
    M optimizer_zero_grad
    C on_before_backward
    M on_before_backward
    M backward
    C on_after_backward
    M on_after_backward
""")
STEP = lines("""
    C on_before_optimizer_step
    M on_before_optimizer_step
    M configure_gradient_clipping
""")
BATCH_START = [*TRANSFER, "C on_train_batch_start", "M on_train_batch_start"]
BATCH_END = ["C on_train_batch_end", "M on_train_batch_end"]
BATCH = [*BATCH_START, "M optimizer_step", *CLOSURE, *STEP, *BATCH_END]


def pass_over(stage: str) -> list[str]:
    """One batch of validation or test."""
    start, end = f"on_{stage}_start", f"on_{stage}_end"
    return [
        f"M on_{stage}_model_eval",
        *(f"C {start}", f"M {start}", f"C on_{stage}_epoch_start", f"M on_{stage}_epoch_start"),
        *(*TRANSFER, f"C on_{stage}_batch_start", f"M on_{stage}_batch_start"),
        f"M {stage}_step",
        *(f"C on_{stage}_batch_end", f"M on_{stage}_batch_end"),
        *(f"C on_{stage}_epoch_end", f"M on_{stage}_epoch_end", f"C {end}", f"M {end}"),
        f"M on_{stage}_model_train",
    ]


VALIDATION = pass_over("validation")
ZERO_GRAD = "M on_validation_model_zero_grad"
EPOCH = [
    *("C on_train_epoch_start", "M on_train_epoch_start"),
    *(*BATCH, *BATCH),
    *(ZERO_GRAD, *VALIDATION),
    *("C on_train_epoch_end", "M on_train_epoch_end"),
]
FIT = [
    *START,
    *("M configure_optimizers", "C on_fit_start", "M on_fit_start"),
    *("C on_sanity_check_start", "D val_dataloader", *VALIDATION, "C on_sanity_check_end"),
    *("D train_dataloader", "C on_train_start", "M on_train_start"),
    *(*EPOCH, *EPOCH),
    *("C on_train_end", "M on_train_end", "C on_fit_end", "M on_fit_end"),
    *END,
]
PREDICTION = [
    *("D predict_dataloader", "M on_predict_model_eval"),
    *("C on_predict_start", "M on_predict_start", "C on_predict_epoch_start", "M on_predict_epoch_start"),
    *(*TRANSFER, "C on_predict_batch_start", "M on_predict_batch_start"),
    "M predict_step",
    *("C on_predict_batch_end", "M on_predict_batch_end"),
    *("C on_predict_epoch_end", "M on_predict_epoch_end", "C on_predict_end", "M on_predict_end"),
]


def test_the_whole_order_of_hooks():
    calls, module, data, callback = parts()
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=1, callbacks=callback)
    trainer.fit(module, datamodule=data)
    assert written(calls) == written(FIT)
    expected = {
        "validate": [*START, "D val_dataloader", *VALIDATION, *END],
        "test": [*START, "D test_dataloader", *pass_over("test"), *END],
        "predict": [*START, *PREDICTION, *END],
    }
    for verb, order in expected.items():
        calls.clear()
        getattr(trainer, verb)(module, datamodule=data)
        assert written(calls) == written(order), verb


def test_the_order_is_the_same_where_little_is_overridden():
    """The step then takes a shorter way."""
    shared = [name for name in (*SHARED, "training_step", "validation_step") if name not in ASKED]
    calls, module, data, callback = parts(hooks=shared)
    make_trainer(max_epochs=2, num_sanity_val_steps=1, callbacks=callback).fit(module, datamodule=data)
    short = [call for call in FIT if call[:1] != "M" or call[2:] in shared]
    assert written(calls) == written(short)


def test_the_order_without_a_sanity_check():
    calls, module, data, callback = parts()
    make_trainer(callbacks=callback).fit(module, datamodule=data)
    begin = calls.index("C on_fit_start")
    assert calls[begin : begin + 6] == lines("""
        C on_fit_start
        M on_fit_start
        D train_dataloader
        D val_dataloader
        C on_train_start
        M on_train_start
    """)


def test_the_order_while_accumulating():
    calls, module, data, callback = parts(train=3)
    make_trainer(callbacks=callback, accumulate_grad_batches=2, limit_val_batches=0).fit(module, datamodule=data)
    zero_grad = ("C on_before_zero_grad", "M on_before_zero_grad", "M optimizer_zero_grad")
    assert written(calls[calls.index("D on_before_batch_transfer") : calls.index("C on_train_epoch_end")]) == written(
        [
            *(*BATCH_START, *CLOSURE, *BATCH_END),
            *(*BATCH_START, "M optimizer_step", *(c for c in CLOSURE if c not in zero_grad), *STEP, *BATCH_END),
            *BATCH,  # the last of an epoch always steps
        ]
    )


def test_gradients_survive_a_validation_while_accumulating():
    calls, module, data, callback = parts(train=3)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 1}
    make_trainer(callbacks=callback, **options).fit(module, datamodule=data)
    validated = [i for i, call in enumerate(calls) if call == "C on_validation_start"]
    assert [ZERO_GRAD in calls[i - 2 : i] for i in validated] == [False, True, True]


class Manual(Net):
    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self(batch).mean())
        optimizer.step()
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_the_order_with_manual_optimization():
    names = [name for name in MODULE_HOOKS if name not in ("optimizer_step", "validation_step", "test_step")]
    calls, module, data, callback = parts(Manual, [*names, "lr_scheduler_step"])
    make_trainer(callbacks=callback, limit_val_batches=0).fit(module, datamodule=data)
    batch = [
        *(*BATCH_START, "M training_step"),
        *("C on_before_backward", "M on_before_backward", "M backward", "C on_after_backward", "M on_after_backward"),
        *("C on_before_optimizer_step", "M on_before_optimizer_step"),
        *BATCH_END,
    ]
    assert written(calls[calls.index("M on_train_epoch_start") + 1 : calls.index("C on_train_epoch_end")]) == written(
        [*batch, *batch]
    )


class Scheduled(Validated):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        lr = torch.optim.lr_scheduler
        return [optimizer], [
            {"scheduler": lr.StepLR(optimizer, 1), "interval": "step"},
            lr.ExponentialLR(optimizer, 0.5),
            {"scheduler": lr.ReduceLROnPlateau(optimizer), "monitor": "score"},
        ]


def test_schedulers_step_before_the_batch_ends_and_plateaus_after_the_epoch():
    names = ("lr_scheduler_step", "on_train_batch_end", "on_validation_end", "on_train_epoch_end")
    calls, module, data, _ = parts(Scheduled, names)
    make_trainer().fit(module, datamodule=data)
    assert calls[calls.index("D on_after_batch_transfer") + 1 :] == lines("""
        M lr_scheduler_step
        M on_train_batch_end
        D on_before_batch_transfer
        D transfer_batch_to_device
        D on_after_batch_transfer
        M lr_scheduler_step
        M lr_scheduler_step
        M on_train_batch_end
        D on_before_batch_transfer
        D transfer_batch_to_device
        D on_after_batch_transfer
        M on_validation_end
        M on_train_epoch_end
        M lr_scheduler_step
        D teardown
    """)


class Repeating(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=1e-3, max_iter=2)


def test_an_optimizer_that_evaluates_twice_runs_the_whole_closure_twice():
    calls, module, data, callback = parts(Repeating, [n for n in MODULE_HOOKS if n not in STEPS[1:]], train=1)
    make_trainer(callbacks=callback, limit_val_batches=0).fit(module, datamodule=data)
    assert written(calls[calls.index("M optimizer_step") : calls.index("C on_train_batch_end")]) == written(
        ["M optimizer_step", *CLOSURE, *STEP, *CLOSURE, *STEP]
    )


class NoneFirst(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:training_step returned None")
def test_a_batch_without_a_loss_has_no_backward_pass():
    calls, module, data, callback = parts(NoneFirst, [n for n in MODULE_HOOKS if n not in STEPS[1:]])
    make_trainer(callbacks=callback, limit_val_batches=0).fit(module, datamodule=data)
    without = [call for call in CLOSURE if "backward" not in call]
    assert written(calls[calls.index("M optimizer_step") : calls.index("C on_train_batch_end")]) == written(
        ["M optimizer_step", *without, *STEP]
    )


class Skipping(Validated):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 1 else None


def test_minus_one_from_the_module_ends_the_epoch_without_a_validation():
    names = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_train_epoch_end")
    calls, module, data, _ = parts(Skipping, names, train=3)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, datamodule=data)
    epoch = ["M on_train_batch_start", "M on_train_batch_end", "M on_train_batch_start", "M on_train_epoch_end"]
    assert [call for call in calls if call[0] == "M"] == [*epoch, *epoch]
    assert (trainer.current_epoch, trainer.global_step) == (2, 2)


def test_minus_one_from_a_callback_means_nothing():
    trainer = make_trainer(callbacks=LambdaCallback(on_train_batch_start=lambda *_: -1))
    trainer.fit(Net(), numbers(3))
    assert trainer.global_step == 3


class Failing(Net):
    error: BaseException = ZeroDivisionError("no")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise self.error


def test_an_exception_is_told_to_callbacks_data_and_loggers_and_raised():
    calls, module, data, callback = parts(Failing, ("teardown", "on_train_end", "on_fit_end"))
    logger = Rows()
    trainer = make_trainer(callbacks=callback, logger=logger, log_every_n_steps=1, limit_val_batches=0)
    with pytest.raises(ZeroDivisionError, match="no"):
        trainer.fit(module, datamodule=data)
    assert calls[-2:] == ["C on_exception", "D on_exception"]
    assert not [call for call in calls if "teardown" in call or call[0] == "M"]
    assert logger.ended == ["failed"]
    assert trainer.state.status == "interrupted"


def test_the_exception_hook_gets_the_exception():
    seen: list[Any] = []
    callback = LambdaCallback(on_exception=lambda trainer, module, error: seen.append(error))
    with pytest.raises(ZeroDivisionError) as caught:
        make_trainer(callbacks=callback).fit(Failing(), numbers())
    assert seen == [caught.value]


def test_an_interruption_ends_the_program_and_is_seen_on_the_trainer():
    calls, module, data, callback = parts(Failing, ())
    module.error = KeyboardInterrupt()
    trainer = make_trainer(callbacks=callback, limit_val_batches=0)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(module, datamodule=data)
    assert calls[-2:] == ["C on_exception", "D on_exception"]
    assert trainer.interrupted
    assert not make_trainer().interrupted


# ---- who is called


def test_callbacks_come_in_the_users_order_with_checkpoints_last():
    calls: list[str] = []

    def named(base: type, label: str) -> Any:
        return recording(base, label, ("on_train_start", "on_train_epoch_end", "on_validation_end"), calls)

    first, stop = named(L.Callback, "first")(), named(EarlyStopping, "stop")("score")
    save, second = named(Checkpoint, "save")(), named(L.Callback, "second")()
    module = recording(Scheduled, "module", ("on_train_start", "on_train_epoch_end", "on_validation_end"), calls)()
    make_trainer(callbacks=[save, first, stop, second], enable_checkpointing=True).fit(module, numbers(1), numbers(1))
    assert [c.removesuffix(" on_train_start") for c in calls if "train_start" in c] == [
        *("first", "stop", "second", "save", "module")
    ]
    assert [c.removesuffix(" on_train_epoch_end") for c in calls if "epoch_end" in c] == [
        *("first", "second", "module", "stop", "save")
    ]
    ended = [c.removesuffix(" on_validation_end") for c in calls if "validation_end" in c]
    assert ended[:3] == ["first", "stop", "second"]
    assert sorted(ended[3:]) == ["module", "save"]


def test_callbacks_that_the_module_brings_replace_those_of_their_class():
    class Bringing(Net):
        def configure_callbacks(self) -> Any:
            return [EarlyStopping("loss", patience=9), LambdaCallback()]

    given = [EarlyStopping("loss", patience=1, strict=False), ModelCheckpoint()]
    trainer = make_trainer(callbacks=given, enable_checkpointing=True, limit_train_batches=0)
    trainer.fit(Bringing(), numbers())
    assert [type(callback).__name__ for callback in trainer.callbacks] == [
        *("EarlyStopping", "LambdaCallback", "ModelCheckpoint")
    ]
    assert trainer.callbacks[0].patience == 9


def test_configure_callbacks_must_return_callbacks():
    class Wrong(Net):
        def configure_callbacks(self) -> Any:
            return ["early stopping"]

    with pytest.raises(TypeError, match="configure_callbacks returned 'early stopping'"):
        make_trainer().fit(Wrong(), numbers())


def test_callbacks_added_during_training_are_called_from_the_next_epoch_on():
    seen: list[int] = []

    class Adding(Net):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 0:
                self.trainer.callbacks.append(
                    LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(trainer.current_epoch))
                )

    make_trainer(max_epochs=3).fit(Adding(), numbers(2))
    assert seen == [1, 1, 2, 2]


def test_hooks_set_on_the_instance_are_called():
    module, calls = Net(), []
    module.on_train_start = lambda: calls.append("start")
    module.training_step = lambda batch, batch_idx: calls.append("step") or module(batch).mean()
    make_trainer().fit(module, numbers(2))
    assert calls == ["start", "step", "step"]


def test_a_hook_that_nobody_overrides_is_never_called(monkeypatch):
    def no(*args: Any) -> None:
        raise AssertionError("called")

    for owner, names in ((L.Callback, (*SHARED, *CALLBACK_ONLY)), (L.LightningModule, SHARED)):
        for name in names:
            monkeypatch.setattr(owner, name, no)
    make_trainer(callbacks=L.Callback()).fit(Validated(), numbers(1), numbers(1))


# ---- with what


class Seen(L.Callback):
    """What the hooks of batches are given."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.found.append((batch.tolist(), batch_idx))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append((outputs, batch.tolist(), batch_idx))

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.found.append((batch.tolist(), batch_idx, dataloader_idx))

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.found.append((outputs, batch.tolist(), batch_idx, dataloader_idx))


def test_what_the_hooks_of_training_batches_are_given():
    class Rich(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self(batch).mean(), "more": batch_idx}

    seen = Seen()
    make_trainer(callbacks=seen).fit(Rich(), numbers(2))
    loss = seen.found[1][0]["loss"]
    assert loss == 0
    assert not loss.requires_grad
    assert seen.found == [
        ([[0.0, 0.0]], 0),
        ({"loss": loss, "more": 0}, [[0.0, 0.0]], 0),
        ([[1.0, 1.0]], 1),
        ({"loss": torch.tensor(2.0), "more": 1}, [[1.0, 1.0]], 1),
    ]


def test_the_loss_that_hooks_see_is_divided_while_accumulating():
    losses: list[float] = []

    class Looking(Net):
        def on_before_backward(self, loss: torch.Tensor) -> None:
            losses.append(loss.item())

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(outputs["loss"].item())

    make_trainer(accumulate_grad_batches=2).fit(Looking(), numbers(3))
    assert losses == [0, 0, 1, 1, 2, 2]


def test_what_the_hooks_of_evaluation_batches_are_given():
    class Telling(Net):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return f"{dataloader_idx}.{batch_idx}"

    seen = Seen()
    make_trainer(callbacks=seen).test(Telling(), [numbers(1), numbers(2)])
    assert seen.found == [
        ([[0.0, 0.0]], 0, 0),
        ("0.0", [[0.0, 0.0]], 0, 0),
        ([[0.0, 0.0]], 0, 1),
        ("1.0", [[0.0, 0.0]], 0, 1),
        ([[1.0, 1.0]], 1, 1),
        ("1.1", [[1.0, 1.0]], 1, 1),
    ]


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_stages_are_called_by_their_verb(verb):
    seen = []

    class Staged(Validated):
        def setup(self, stage: str) -> None:
            seen.append(("setup", stage))

        def teardown(self, stage: str) -> None:
            seen.append(("teardown", stage))

    loaders = [numbers(1), numbers(1)] if verb == "fit" else [numbers(1)]
    getattr(make_trainer(), verb)(Staged(), *loaders)
    assert seen == [("setup", verb), ("teardown", verb)]


def test_hooks_of_the_optimizer_get_the_bare_one_and_the_step_a_wrapped_one():
    seen = {}

    class Looking(Net):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            seen["before_zero_grad"] = optimizer

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen["before_step"] = optimizer

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            seen["zero_grad"] = optimizer

        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            seen["clipping"] = optimizer
            seen["clip"] = gradient_clip_val, gradient_clip_algorithm

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            seen["step"] = optimizer
            optimizer.step(closure=optimizer_closure)

    trainer = make_trainer(gradient_clip_val=2, gradient_clip_algorithm="value")
    trainer.fit(Looking(), numbers(1))
    bare = trainer.optimizers[0]
    assert seen.pop("clip") == (2, "value")
    wrapped = seen.pop("step")
    assert wrapped is not bare
    assert wrapped.optimizer is bare
    assert isinstance(wrapped, torch.optim.SGD)
    assert all(optimizer is bare for optimizer in seen.values())
    assert len(seen) == 4


def test_epoch_and_batch_are_told_to_the_optimizer_hooks():
    seen = []

    class Looking(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            seen.append(("step", epoch, batch_idx))
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            seen.append(("zero_grad", epoch, batch_idx))

    make_trainer(max_epochs=2).fit(Looking(), numbers(2))
    assert seen == [(what, epoch, batch) for epoch in (0, 1) for batch in (0, 1) for what in ("step", "zero_grad")]


# ---- batches on their way


def test_the_datamodules_transfer_hooks_win_over_the_modules():
    calls, module, data, _ = parts(hooks=TRANSFERS)
    make_trainer().validate(module, datamodule=data)
    assert [call for call in calls if "transfer" in call] == TRANSFER


def test_the_modules_transfer_hooks_change_the_batch():
    seen = []

    class Changing(Net):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch + 1

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            seen.append((device, dataloader_idx))
            return batch * 10

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch + 0.5

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch[0, 0].item())
            return self(batch).mean()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            seen.append(batch[0, 0].item())

    make_trainer().fit(Changing(), numbers(1), [numbers(1), numbers(1)])
    cpu = torch.device("cpu")
    assert seen == [(cpu, 0), 10.5, (cpu, 0), 10.5, (cpu, 1), 10.5]


# ---- signatures and names


def test_the_names_of_a_hooks_parameters_are_free():
    seen = []

    class Free(L.Callback):
        def on_test_batch_end(self, t: Any, m: Any, out: Any, data: Any, i: int, which: int = 7) -> None:
            seen.append((out.item(), i, which))

        def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, which: int = 7) -> None:
            seen.append((batch_idx, which))

    class Both(Validated):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return self(batch).mean()

    make_trainer(callbacks=Free()).test(Both(), [numbers(1), numbers(1)])
    assert seen == [(0, 0), (0.0, 0, 0), (0, 1), (0.0, 0, 1)]


def test_dataloader_idx_may_be_left_out_of_a_hook():
    seen = []

    class Short(Validated):
        def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(("start", batch_idx))

        def on_validation_batch_end(self, outs: Any, data: Any, i: int) -> None:
            seen.append(("end", i))

    make_trainer().validate(Short(), numbers(1))
    assert seen == [("start", 0), ("end", 0)]


@pytest.mark.parametrize(
    ("base", "name", "arguments"),
    [
        (Net, "on_train_batch_end", "self, outputs, batch, batch_idx, more, again"),
        (Net, "on_train_start", "self, trainer, module"),
        (L.Callback, "on_train_start", "self"),
        (L.Callback, "on_train_epoch_end", "self, trainer, pl_module, a, b"),
        (Net, "on_fit_start", "self, stage"),
    ],
)
def test_a_hook_that_cannot_take_its_arguments_is_an_error_with_the_right_signature(base, name, arguments):
    scope: dict[str, Any] = {}
    exec(f"def {name}({arguments}): pass", scope)
    owner = type("Own", (base,), {name: scope[name]})()
    module, callback = (owner, None) if base is Net else (Net(), owner)
    with pytest.raises(TypeError, match=rf"Own\.{name}.* def {name}\(self"):
        make_trainer(callbacks=callback).fit(module, numbers(1))


@pytest.mark.parametrize(
    ("base", "wrong", "right"),
    [
        (Net, "on_train_epochs_end", "on_train_epoch_end"),
        (Net, "on_training_epoch_start", "on_train_epoch_start"),
        (L.Callback, "on_validation_epochs_end", "on_validation_epoch_end"),
    ],
)
def test_a_misspelt_hook_is_told_with_the_nearest_right_one(base, wrong, right):
    owner = type("Own", (base,), {wrong: lambda self, *args: None})()
    module, callback = (owner, None) if base is Net else (Net(), owner)
    with pytest.warns(UserWarning, match=f"Own.{wrong} is never called. Did you mean '{right}'"):
        make_trainer(callbacks=callback).fit(module, numbers(1))


@pytest.mark.filterwarnings("ignore:Own.configure_optimizer is never called")
@pytest.mark.parametrize(
    ("wrong", "right"), [("train_step", "training_step"), ("configure_optimizer", "configure_optimizers")]
)
def test_a_missing_method_is_told_with_the_one_that_looks_like_it(wrong, right):
    methods = {"training_step": Net.training_step, "configure_optimizers": Net.configure_optimizers}
    methods[wrong] = methods.pop(right)
    module = type("Own", (L.LightningModule,), methods)()
    with pytest.raises(MisconfigurationException, match=f"Own has no {right}.*It has '{wrong}'"):
        make_trainer().fit(module, numbers(1))


# ---- modes and gradients


def test_validation_within_fit_leaves_each_part_in_the_mode_it_was_in():
    modes = {}

    class Frozen(Validated):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = torch.nn.Dropout().eval()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            modes.setdefault("train", []).append((self.training, self.layer.training, self.frozen.training))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            modes.setdefault("validation", []).append((self.training, self.layer.training, self.frozen.training))

    make_trainer(max_epochs=2, num_sanity_val_steps=1).fit(Frozen(), numbers(1), numbers(1))
    assert modes == {"train": [(True, True, False)] * 2, "validation": [(False, False, False)] * 3}


def test_a_module_decides_about_its_modes_by_its_own_hooks():
    modes = []

    class Deciding(Validated):
        def on_validation_model_eval(self) -> None:
            self.layer.eval()

        def on_validation_model_train(self) -> None:
            self.layer.train()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            modes.append((self.training, self.layer.training))

        def on_train_epoch_end(self) -> None:
            modes.append((self.training, self.layer.training))

    make_trainer().fit(Deciding(), numbers(1), numbers(1))
    assert modes == [(True, False), (True, True)]


@pytest.mark.parametrize(("verb", "step"), [("validate", "validation_step"), ("test", "test_step")])
@pytest.mark.parametrize("inference_mode", [True, False])
def test_evaluation_runs_in_inference_mode_unless_told_otherwise(verb, step, inference_mode):
    seen = []

    class Looking(Validated):
        pass

    setattr(Looking, step, lambda self, batch, batch_idx: seen.append(self._modes()))
    Looking._modes = lambda self: (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    for hook in ("setup", "teardown"):
        setattr(Looking, hook, lambda self, stage: seen.append(self._modes()))
    getattr(make_trainer(inference_mode=inference_mode), verb)(Looking(), numbers(1))
    assert seen == [(False, True), (inference_mode, False), (False, True)]


def test_validation_within_fit_is_without_gradients_and_never_in_inference_mode():
    seen = []

    class Looking(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

        def on_validation_end(self) -> None:
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

        def on_train_epoch_end(self) -> None:
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    make_trainer().fit(Looking(), numbers(1), numbers(1))
    assert seen == [(False, False), (False, False), (False, True)]


# ---- checkpoints


def test_the_order_of_saving_and_of_loading(tmp_path):
    calls: list[str] = []
    states = ("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint")
    later = ("setup", "configure_model", "configure_optimizers", "on_fit_start", "on_train_start")

    class State:
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            assert state_dict == {"a": 1}

    class Keeping(State, L.Callback):
        pass

    class Stored(State, Data):
        pass

    def fresh() -> Any:
        module = recording(Net, "M", ("on_save_checkpoint", "on_load_checkpoint", "load_state_dict", *later), calls)()
        data = recording(Stored, "D", ("state_dict", "load_state_dict"), calls)()
        return module, data, recording(Keeping, "C", (*states, "setup", "on_fit_start", "on_train_start"), calls)()

    module, data, callback = fresh()
    trainer = make_trainer(callbacks=callback, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    calls.clear()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert calls == ["C state_dict", "D state_dict", "C on_save_checkpoint", "M on_save_checkpoint"]

    calls.clear()
    module, data, callback = fresh()
    trainer = make_trainer(callbacks=callback, max_epochs=2, limit_val_batches=0)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
    assert calls == lines("""
        C setup
        M setup
        M configure_model
        M on_load_checkpoint
        M load_state_dict
        D load_state_dict
        C on_load_checkpoint
        C load_state_dict
        M configure_optimizers
        C on_fit_start
        M on_fit_start
        C on_train_start
        M on_train_start
    """)


def test_save_and_load_hooks_carry_what_they_want(tmp_path):
    class Keeping(Net):
        kept = None

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = [1, 2]

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.kept = checkpoint["mine"]

    trainer = make_trainer()
    trainer.fit(Keeping(), numbers(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module = Keeping()
    make_trainer(max_epochs=2).fit(module, numbers(1), ckpt_path=tmp_path / "a.ckpt")
    assert module.kept == [1, 2]
