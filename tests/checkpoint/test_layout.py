"""What a checkpoint tells other readers of the format: where the loops stood, in their words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import Net, Numbers, Validated, make_trainer, numbers
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import EarlyStopping, ModelCheckpoint, Timer


class Saving(L.Callback):
    """Saves when a hook is called for the n-th time."""

    def __init__(self, hook: str, at: int) -> None:
        self.left = at
        setattr(self, hook, self.count)

    def count(self, trainer: Any, *args: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint("x.ckpt")


def saved(hook: str, at: int, module: Any = None, train: Any = None, **options: Any) -> dict[str, Any]:
    """The checkpoint from the `at`-th call of `hook` in two epochs of four batches, each validated twice."""
    options = {"max_epochs": 2, "val_check_interval": 2, **options}
    trainer = make_trainer(callbacks=[Saving(hook, at)], **options)
    trainer.fit(module or Validated(), train or numbers(4), numbers(1))
    return torch.load("x.ckpt", weights_only=True)


def four(ready: int, completed: int, started: int, processed: int) -> dict[str, int]:
    return {"ready": ready, "completed": completed, "started": started, "processed": processed}


def test_names_of_all_parts():
    loops = saved("on_train_epoch_end", 1)["loops"]
    assert list(loops) == ["fit_loop", "validate_loop", "test_loop", "predict_loop"]
    assert sorted(loops["fit_loop"]) == [
        "epoch_loop.automatic_optimization.optim_progress",
        "epoch_loop.automatic_optimization.state_dict",
        "epoch_loop.batch_progress",
        "epoch_loop.manual_optimization.optim_step_progress",
        "epoch_loop.manual_optimization.state_dict",
        "epoch_loop.scheduler_progress",
        "epoch_loop.state_dict",
        "epoch_loop.val_loop.batch_progress",
        "epoch_loop.val_loop.state_dict",
        "epoch_progress",
        "state_dict",
    ]
    assert list(loops["validate_loop"]) == ["state_dict", "batch_progress"]
    assert "is_last_batch" in loops["test_loop"]["batch_progress"]
    assert "is_last_batch" not in loops["predict_loop"]["batch_progress"]


# The hook, which call of it, the epochs' counters, the batches', and the batches that ended with a step.
PLACES = [
    ("on_train_start", 1, four(0, 0, 0, 0), four(0, 0, 0, 0), 0),
    ("on_train_batch_end", 3, four(1, 0, 1, 0), four(3, 2, 3, 3), 2),  # the batch is not closed before its hooks end
    ("on_train_batch_start", 8, four(2, 1, 2, 1), four(3, 2, 3, 3), 6),
    ("on_validation_end", 3, four(2, 1, 2, 1), four(2, 2, 2, 2), 5),
    ("on_validation_end", 4, four(2, 1, 2, 1), four(4, 4, 4, 4), 7),
    ("on_train_batch_end", 4, four(1, 1, 1, 1), four(0, 0, 0, 0), 4),
    ("on_train_epoch_end", 1, four(1, 1, 1, 1), four(0, 0, 0, 0), 4),
    ("on_train_epoch_start", 2, four(1, 1, 1, 1), four(0, 0, 0, 0), 4),
    ("on_train_end", 1, four(2, 2, 2, 2), four(0, 0, 0, 0), 8),
]


@pytest.mark.parametrize(("hook", "at", "epochs", "batches", "stepped"), PLACES)
def test_counters(hook, at, epochs, batches, stepped):
    checkpoint = saved(hook, at)
    fit = checkpoint["loops"]["fit_loop"]
    assert fit["epoch_progress"] == {"total": epochs, "current": epochs}
    assert fit["epoch_loop.batch_progress"]["current"] == batches
    assert fit["epoch_loop.state_dict"] == {"_batches_that_stepped": stepped}
    step = fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    assert step["total"]["completed"] == checkpoint["global_step"]
    total, is_open = fit["epoch_loop.batch_progress"]["total"], bool(batches["ready"])
    assert total["ready"] == checkpoint["global_step"]
    assert total["ready"] - total["completed"] == batches["ready"] - batches["completed"]
    assert fit["epoch_loop.batch_progress"]["is_last_batch"] == (is_open and batches["ready"] == 4)


def test_an_epoch_that_was_cut_is_done():
    epochs = saved("on_train_end", 1, max_steps=6)["loops"]["fit_loop"]["epoch_progress"]
    assert epochs["current"] == four(2, 2, 2, 2)


def test_batches_that_gather_gradients_are_no_steps():
    fit = saved("on_train_batch_end", 3, accumulate_grad_batches=2)["loops"]["fit_loop"]
    assert fit["epoch_loop.state_dict"] == {"_batches_that_stepped": 1}
    assert fit["epoch_loop.batch_progress"]["total"] == four(3, 2, 3, 3)


def test_steps_of_manual_optimization_are_counted_by_themselves():
    class Manual(Validated):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                self.manual_backward(self(batch).mean())
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), 0.0), torch.optim.SGD(self.parameters(), 0.0)]

    checkpoint = saved("on_train_batch_end", 3, Manual())
    fit = checkpoint["loops"]["fit_loop"]
    assert checkpoint["global_step"] == 6
    assert fit["epoch_loop.manual_optimization.optim_step_progress"]["total"] == {"ready": 6, "completed": 6}
    assert fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"] == 0
    assert fit["epoch_loop.state_dict"] == {"_batches_that_stepped": 2}


def test_loaders_that_know_where_they_stand():
    class Knowing(DataLoader):
        def state_dict(self) -> dict[str, Any]:
            return {"at": 3}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    knowing = [Knowing(Numbers(4)), Knowing(Numbers(4))]
    assert saved("on_train_batch_end", 1)["loops"]["fit_loop"]["state_dict"] == {}
    one = saved("on_train_batch_end", 1, train=knowing[0])["loops"]["fit_loop"]["state_dict"]
    assert one == {"combined_loader": [{"at": 3}]}

    class Pairs(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0]).mean()

    both = saved("on_train_batch_end", 1, Pairs(), train=knowing)["loops"]["fit_loop"]["state_dict"]
    assert both == {"combined_loader": [{"at": 3}, {"at": 3}]}


def test_states_of_callbacks_have_the_names_that_other_readers_look_for():
    keep = ModelCheckpoint("kept", monitor="v", save_top_k=2)

    class Logging(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("v", self(batch).mean())

    trainer = make_trainer(enable_checkpointing=True, callbacks=[keep, EarlyStopping("v"), Timer()])
    trainer.fit(Logging(), numbers(1), numbers(1))
    trainer.save_checkpoint("x.ckpt")
    states = torch.load("x.ckpt", weights_only=True)["callbacks"]
    stop, kept = (
        "EarlyStopping{'monitor': 'v', 'mode': 'min'}",
        (
            "ModelCheckpoint{'monitor': 'v', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
            "'train_time_interval': None}"
        ),
    )
    assert set(states) == {stop, kept, "Timer"}
    reason = {"stopping_reason", "stopping_reason_message"}
    assert set(states[stop]) == {"wait_count", "stopped_epoch", "best_score", "patience"} | reason
    assert set(states[kept]) - {"progress"} == {
        "monitor", "best_model_score", "best_model_path", "current_score", "dirpath", "best_k_models",
        "kth_best_model_path", "kth_value", "last_model_path",
    }  # fmt: skip
    assert set(states["Timer"]["time_elapsed"]) == {"train", "sanity_check", "validate", "test", "predict"}


def test_a_model_only_file_has_the_same_places():
    trainer = make_trainer()
    trainer.fit(Net(), numbers(2))
    trainer.save_checkpoint("x.ckpt", weights_only=True)
    checkpoint = torch.load("x.ckpt", weights_only=True)
    assert checkpoint["pytorch-lightning_version"] == "2.6.6"
    assert checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"] == four(1, 1, 1, 1)
    assert {"callbacks", "optimizer_states", "lr_schedulers"} & set(checkpoint) == set()
