"""Hooks by older names and with older signatures, of modules and callbacks."""

from __future__ import annotations

import inspect

import pytest
import torch
from small import Net, Validated, make_trainer, numbers

from fulmen import LightningDataModule
from fulmen.callbacks import Callback, EarlyStopping, ModelCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def recorder(base, *signatures):
    """A class of `base` with a hook for each signature, which notes its name and what it got."""

    def method(text):
        name = text.partition("(")[0]
        scope = {}
        exec(f"def {text}:\n    note(self, {name!r}, dict(locals()))\n", {"note": note}, scope)
        return scope[name]

    made = {text.partition("(")[0]: method(text) for text in signatures}
    return type("Recorder", (base,), {**made, "called": property(lambda self: self.__dict__.setdefault("_called", []))})


def note(owner, name, given):
    given.pop("self")
    owner.called.append((name, {k: v for k, v in given.items() if k not in ("trainer", "pl_module")}))


def names(owner):
    return [name for name, _ in owner.called]


def given(owner, name):
    return next(arguments for called, arguments in owner.called if called == name)


def fit(module, *callbacks, **options):
    trainer = make_trainer(callbacks=list(callbacks), **options)
    trainer.fit(module, numbers(2), numbers(1))
    return trainer


# ---- names


OLD_CALLBACK = [
    "on_batch_start(self, trainer, pl_module)", "on_batch_end(self, trainer, pl_module)",
    "on_epoch_start(self, trainer, pl_module)", "on_epoch_end(self, trainer, pl_module)",
    "on_pretrain_routine_start(self, trainer, pl_module)", "on_pretrain_routine_end(self, trainer, pl_module)",
    "on_before_accelerator_backend_setup(self, trainer, pl_module)",
    "on_configure_sharded_model(self, trainer, pl_module)",
]  # fmt: skip
TODAY = [
    "setup(self, trainer, pl_module, stage)", "on_fit_start(self, trainer, pl_module)",
    "on_train_start(self, trainer, pl_module)", "on_train_epoch_start(self, trainer, pl_module)",
    "on_train_batch_start(self, trainer, pl_module, batch, batch_idx)",
    "on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)",
    "on_train_epoch_end(self, trainer, pl_module)",
]  # fmt: skip


def test_old_hooks_of_callbacks_run_at_their_moments():
    callback = recorder(Callback, *OLD_CALLBACK, *TODAY)()

    fit(Net(), callback)

    batch = ["on_batch_start", "on_train_batch_start", "on_train_batch_end", "on_batch_end"]
    assert names(callback) == [
        "on_before_accelerator_backend_setup", "setup", "on_configure_sharded_model", "on_fit_start",
        "on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start", "on_epoch_start",
        "on_train_epoch_start", *batch, *batch, "on_train_epoch_end", "on_epoch_end",
    ]  # fmt: skip


def test_old_hooks_of_modules_run_at_their_moments():
    module = recorder(
        Validated, "on_batch_start(self, batch)", "on_batch_end(self)", "on_epoch_start(self)", "on_epoch_end(self)",
        "on_pretrain_routine_start(self)", "on_post_move_to_device(self)", "on_sanity_check_start(self)",
        "on_pre_performance_check(self)", "on_post_performance_check(self)", "on_train_dataloader(self)",
        "on_val_dataloader(self)", "on_test_dataloader(self)", "on_predict_dataloader(self)",
    )()  # fmt: skip

    fit(module, num_sanity_val_steps=1)

    validation = ["on_pre_performance_check", "on_post_performance_check"]
    assert names(module) == [
        "on_train_dataloader", "on_val_dataloader", "on_post_move_to_device", "on_pretrain_routine_start",
        "on_sanity_check_start", *validation, "on_epoch_start", "on_batch_start", "on_batch_end", "on_batch_start",
        "on_batch_end", *validation, "on_epoch_end",
    ]  # fmt: skip
    assert given(module, "on_batch_start")["batch"].tolist() == [[0.0, 0.0]]


def test_a_modules_on_batch_start_ends_the_epoch_with_minus_one():
    class Short(Net):
        def on_batch_start(self, batch):
            return -1 if self.trainer.global_step == 1 else None

    assert fit(Short()).global_step == 1


def test_on_init_hooks_run_when_the_trainer_is_made():
    class Early(Callback):
        seen = ()

        def on_init_start(self, trainer):
            self.seen = (*self.seen, "start")

        def on_init_end(self, trainer):
            self.seen = (*self.seen, trainer.max_epochs)

    callback = Early()
    make_trainer(callbacks=[callback], max_epochs=3)

    assert callback.seen == ("start", 3)


def test_on_keyboard_interrupt_is_for_interruptions_only():
    class Interrupted(Net):
        error: type[BaseException] = KeyboardInterrupt

        def training_step(self, batch, batch_idx):
            raise self.error

    callback = recorder(Callback, "on_keyboard_interrupt(self, trainer, pl_module)")
    stopped, failed = callback(), callback()
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(), stopped)
    module = Interrupted()
    module.error = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        fit(module, failed)

    assert names(stopped) == ["on_keyboard_interrupt"]
    assert failed.called == []


def test_on_hpc_save_and_load_go_with_the_checkpoint(tmp_path):
    class Cluster(Net):
        loaded = None

        def on_hpc_save(self, checkpoint):
            checkpoint["own"] = 5

        def on_hpc_load(self, checkpoint):
            self.loaded = checkpoint["own"]

    fit(Cluster()).save_checkpoint(tmp_path / "a.ckpt")
    module = Cluster()
    make_trainer(max_epochs=2).fit(module, numbers(2), ckpt_path=tmp_path / "a.ckpt")

    assert module.loaded == 5


def test_hooks_that_nobody_calls_any_more_are_named():
    class Own(Net):
        def configure_ddp(self, model, device_ids):
            """The strategy wraps the model."""

    with pytest.warns(UserWarning, match=r"Own\.configure_ddp is not called any more"):
        fit(Own())


def test_a_misspelt_hook_is_still_pointed_out():
    class Wrong(Callback):
        def on_train_batch_ends(self, trainer, pl_module):
            """Never was a hook."""

    with pytest.warns(UserWarning, match="Did you mean 'on_train_batch_end'"):
        fit(Net(), Wrong())


# ---- signatures


BATCH, IDX = [[0.0, 0.0]], 0
OUTPUT = {"loss": 0.0}

CALLBACKS = {
    "on_train_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx)": (BATCH, IDX, 0),
    "on_train_batch_start(self, trainer, pl_module, batch, batch_idx, unused)": (BATCH, IDX, 0),
    "on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)": (OUTPUT, BATCH, IDX, 0),
    "on_train_batch_end(self, trainer, pl_module, batch, batch_idx, dataloader_idx)": (BATCH, IDX, 0),
    "on_train_batch_end(self, trainer, pl_module, o, b, i, d)": (OUTPUT, BATCH, IDX, 0),
    "on_train_batch_end(self, trainer, module, o, b, i)": (OUTPUT, BATCH, IDX),
    "on_validation_batch_start(self, trainer, pl_module)": (),
    "on_validation_batch_end(self, trainer, pl_module)": (),
    "on_validation_batch_end(self, trainer, pl_module, batch, batch_idx, dataloader_idx)": (BATCH, IDX, 0),
    "on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)": (0.0, BATCH, IDX),
    "on_train_epoch_end(self, trainer, pl_module, outputs)": ([OUTPUT, {"loss": 2.0}],),
    "on_train_epoch_end(self, trainer, pl_module, outputs=None)": ([OUTPUT, {"loss": 2.0}],),
    "on_train_epoch_end(self, trainer, pl_module, results)": ([OUTPUT, {"loss": 2.0}],),
    "on_validation_epoch_end(self, trainer, pl_module, outputs)": ([0.0],),
    "on_before_optimizer_step(self, trainer, pl_module, optimizer, optimizer_idx)": ("SGD", 0),
    "setup(self, trainer, pl_module)": (),
    "teardown(self, trainer, pl_module)": (),
}  # fmt: skip
MODULES = {
    "on_train_batch_start(self, batch, batch_idx, dataloader_idx)": (BATCH, IDX, 0),
    "on_train_batch_end(self, outputs, batch, batch_idx, dataloader_idx)": (OUTPUT, BATCH, IDX, 0),
    "on_train_epoch_end(self, outputs)": ([OUTPUT, {"loss": 2.0}],),
    "on_validation_batch_end(self, batch, batch_idx, dataloader_idx)": (BATCH, IDX, 0),
    "on_before_optimizer_step(self, optimizer, optimizer_idx)": ("SGD", 0),
    "setup(self)": (),
}


def plain(value):
    """Tensors as lists, optimizers as the names of their classes."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.optim.Optimizer):
        return type(value).__name__
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("signature", CALLBACKS)
def test_a_callbacks_hook_gets_the_arguments_that_it_asks_for(signature):
    callback = recorder(Callback, signature)()

    fit(Validated(), callback)

    arguments = callback.called[0][1]
    arguments.pop("module", None)
    assert tuple(plain(one) for one in arguments.values()) == CALLBACKS[signature]


@pytest.mark.parametrize("signature", MODULES)
def test_a_modules_hook_gets_the_arguments_that_it_asks_for(signature):
    module = recorder(Validated, signature)()

    fit(module)

    assert tuple(plain(one) for one in module.called[0][1].values()) == MODULES[signature]


def test_prediction_outputs_are_a_list_for_each_loader():
    callback = recorder(Callback, "on_predict_epoch_end(self, trainer, pl_module, outputs)")()

    make_trainer(callbacks=[callback]).predict(Validated(), numbers(2))

    assert plain(given(callback, "on_predict_epoch_end")["outputs"]) == [[[[0.0]], [[2.0]]]]


def test_transfer_batch_to_device_without_the_loaders_index():
    class Moved(Net):
        def transfer_batch_to_device(self, batch, device):
            return batch + (1 if device.type == "cpu" else 0)

    class Data(LightningDataModule):
        def train_dataloader(self):
            return numbers(2)

        def transfer_batch_to_device(self, batch, device):
            return batch + 2

    assert fit(recorder(Moved, "on_batch_start(self, batch)")()).global_step == 2
    module = recorder(Moved, "on_batch_start(self, batch)")()
    fit(module)
    assert plain(module.called[0][1]["batch"]) == [[1.0, 1.0]]
    module = recorder(Moved, "on_batch_start(self, batch)")()
    make_trainer().fit(module, datamodule=Data())
    assert plain(module.called[0][1]["batch"]) == [[2.0, 2.0]]


def test_arguments_that_no_day_knew_are_an_error():
    class Odd(Callback):
        def on_train_start(self, trainer, pl_module, something, else_):
            """Nobody can call this."""

    with pytest.raises(TypeError, match=r"on_train_start\(self, trainer, pl_module\)"):
        fit(Net(), Odd())


# ---- state of callbacks in checkpoints


class Counter(Callback):
    def __init__(self):
        self.count = 0
        self.loaded = []

    def on_batch_end(self, trainer, pl_module):
        self.count += 1


class ByState(Counter):
    def on_save_checkpoint(self, trainer, pl_module):
        return {"count": self.count}

    def on_load_checkpoint(self, checkpointed):
        self.loaded.append(checkpointed)


class ByCallbackState(Counter):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        return {"count": self.count, "step": checkpoint["global_step"]}

    def on_load_checkpoint(self, trainer, pl_module, callback_state):
        self.loaded.append(callback_state)


class Today(Counter):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["counter"] = {"count": self.count}
        return checkpoint

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.loaded.append(checkpoint["counter"])


@pytest.mark.parametrize(
    ("kind", "state"),
    [(ByState, {"count": 2}), (ByCallbackState, {"count": 2, "step": 2}), (Today, {"count": 2})],
)
def test_what_on_save_checkpoint_returns_comes_back(kind, state, tmp_path):
    fit(Net(), kind()).save_checkpoint(tmp_path / "a.ckpt")
    again, fresh = kind(), kind()
    fit(Net(), fresh)
    trainer = make_trainer(callbacks=[again], max_epochs=2)
    trainer.fit(Net(), numbers(2), ckpt_path=tmp_path / "a.ckpt")

    assert again.loaded == [state]
    assert fresh.loaded == []


def test_hooks_of_today_are_called_as_they_are():
    class Modern(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            """As documented."""

        def on_train_epoch_start(self, *args):
            """Takes anything."""

    callback = Modern()
    hooks = fit(Net(), callback).hooks

    assert hooks.on_train_batch_end[0].func == callback.on_train_batch_end
    assert inspect.ismethod(hooks.on_train_epoch_start[0].func)


def test_the_outputs_of_an_epoch_reach_the_callbacks_that_run_last():
    class Stopping(EarlyStopping):
        def on_train_epoch_end(self, trainer, pl_module, outputs=None):
            super().on_train_epoch_end(trainer, pl_module)
            seen.append([float(one["loss"]) for one in outputs])

    class Logs(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    seen: list[list[float]] = []
    fit(Logs(), Stopping("loss"), max_epochs=2)

    assert seen == [[0.0, 2.0]] * 2


def test_fulmens_callbacks_may_be_called_by_super_with_the_arguments_of_then(tmp_path):
    class Saving(ModelCheckpoint):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            calls.append(dataloader_idx)

        def on_train_epoch_end(self, trainer, pl_module, outputs):
            super().on_train_epoch_end(trainer, pl_module, outputs)
            calls.append(len(outputs))

    calls: list[int] = []
    callback = Saving(tmp_path, save_last=True)
    fit(Net(), callback, enable_checkpointing=True)

    assert calls == [0, 0, 2]
    assert callback.last_model_path


def test_setup_of_a_callback_that_got_no_module():
    class Told(Callback):
        def setup(self, trainer, stage):
            self.stage = stage

        def teardown(self, trainer, stage):
            self.stage += f" {stage}"

    callback = Told()
    make_trainer(callbacks=[callback]).fit(Net(), numbers(1))

    assert callback.stage == "fit fit"
