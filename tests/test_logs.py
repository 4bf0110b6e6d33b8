"""self.log: where values go, how they are reduced, under which names, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from small import Net, Numbers, Rows, Stream, Validated, make_trainer, numbers
from torch import Tensor
from torch.utils.data import DataLoader

import fulmen as L
from fulmen.callbacks import LambdaCallback
from fulmen.errors import MisconfigurationException


def logging_net(**hooks: Any) -> Any:
    """A module whose hooks are the functions given; a training step that only logs still trains."""
    step = hooks.get("training_step")
    if step is not None:

        def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
            step(self, batch, batch_idx)
            return self(batch if isinstance(batch, Tensor) else torch.ones(1, 2)).mean()

        hooks["training_step"] = training_step
    return type("Logging", (Net,), hooks)()


def rows_of(module: Any, *loaders: Any, **options: Any) -> list[tuple[int | None, dict[str, float]]]:
    """The rows that a logger gets from a fit."""
    rows = Rows()
    make_trainer(**{"logger": rows, "log_every_n_steps": 1, **options}).fit(module, *loaders)
    return rows.rows


# ---- rows of training


def test_a_training_step_logs_by_step_unless_told_otherwise():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", batch_idx)

    assert rows_of(logging_net(training_step=step), numbers(2), max_epochs=2) == [
        (0, {"loss": 0.0, "epoch": 0}),
        (1, {"loss": 1.0, "epoch": 0}),
        (2, {"loss": 0.0, "epoch": 1}),
        (3, {"loss": 1.0, "epoch": 1}),
    ]


def test_what_is_logged_by_epoch_comes_in_one_row_at_its_end():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", float(batch_idx), on_step=False, on_epoch=True)

    assert rows_of(logging_net(training_step=step), numbers(3), max_epochs=2) == [
        (2, {"loss": 1.0, "epoch": 0}),
        (5, {"loss": 1.0, "epoch": 1}),
    ]


def test_both_get_names_of_their_own():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", float(batch_idx), on_step=True, on_epoch=True)
        self.log("epoch_too", 2.0, on_epoch=True)

    assert rows_of(logging_net(training_step=step), numbers(2)) == [
        (0, {"loss_step": 0.0, "epoch_too_step": 2.0, "epoch": 0}),
        (1, {"loss_step": 1.0, "epoch_too_step": 2.0, "epoch": 0}),
        (1, {"loss_epoch": 0.5, "epoch_too_epoch": 2.0, "epoch": 0}),
    ]


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (2, [1, 3, 5, 7, 9]), (4, [3, 7]), (0, [])]
)
def test_rows_of_steps_come_every_n_steps_counted_over_epochs(every, steps):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", 1.0)

    rows = rows_of(logging_net(training_step=step), numbers(5), max_epochs=2, log_every_n_steps=every)
    assert [step for step, _ in rows] == steps


@pytest.mark.parametrize(("every", "steps"), [(4, [2]), (0, [])])
def test_the_step_that_stops_the_run_has_its_row(every, steps):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", 1.0)
        self.trainer.should_stop = batch_idx == 2

    rows = rows_of(logging_net(training_step=step), numbers(5), log_every_n_steps=every)
    assert [step for step, _ in rows] == steps


def test_an_epoch_shorter_than_the_interval_of_rows_is_told():
    with pytest.warns(L.warn.PossibleUserWarning, match="2 batches, fewer than log_every_n_steps=3"):
        rows_of(Net(), numbers(2), log_every_n_steps=3)


def test_rows_count_optimizer_steps_while_accumulating():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("i", batch_idx)
        self.log("mean", float(batch_idx), on_step=False, on_epoch=True)

    assert rows_of(logging_net(training_step=step), numbers(5), accumulate_grad_batches=2) == [
        (0, {"i": 1.0, "epoch": 0}),
        (1, {"i": 3.0, "epoch": 0}),
        (2, {"i": 4.0, "epoch": 0}),
        (2, {"mean": 2.0, "epoch": 0}),
    ]


def test_rows_of_manual_optimization_count_batches():
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                self.manual_backward(self(batch).mean())
                optimizer.step()
            self.log("i", batch_idx)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.0) for _ in range(2)]

    assert rows_of(Twice(), numbers(2)) == [(0, {"i": 0.0, "epoch": 0}), (1, {"i": 1.0, "epoch": 0})]


def test_a_value_that_is_not_logged_in_each_step_keeps_its_last_in_the_epochs_rows():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 2 == 1:
            self.log("odd", batch_idx)
        self.log("i", batch_idx)

    rows = rows_of(logging_net(training_step=step), numbers(4), max_epochs=2)
    assert [row.get("odd") for _, row in rows] == [None, 1, 1, 3] * 2


def test_nothing_logged_is_no_row():
    assert rows_of(Net(), numbers(2)) == []


def test_what_is_not_for_loggers_is_in_no_row():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("shown", 1.0, logger=False, prog_bar=True, on_epoch=True)

    assert rows_of(logging_net(training_step=step), numbers(2)) == []


def test_every_logger_gets_every_row():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("loss", 1.0)

    one, two = Rows(), Rows()
    rows = rows_of(logging_net(training_step=step), numbers(2), logger=[one, two])
    assert rows == []
    assert one.rows == two.rows == [(i, {"loss": 1.0, "epoch": 0}) for i in (0, 1)]


def test_values_reach_loggers_as_floats():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log_dict({
            "int": 3, "bool": True, "half": torch.tensor(0.5, dtype=torch.float16), "long": torch.tensor(5),
            "one": torch.tensor([[2.0]]), "numpy": numpy.float32(1.5), "double": torch.tensor(0.1, dtype=torch.float64),
        })  # fmt: skip

    ((_, row),) = rows_of(logging_net(training_step=step), numbers(1))
    assert row.pop("epoch") == 0
    assert row == {"int": 3, "bool": 1, "half": 0.5, "long": 5, "one": 2, "numpy": 1.5, "double": 0.1}
    assert all(type(value) is float for value in row.values())


def test_a_logged_step_takes_the_place_of_the_rows_step():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("step", 100.0 + batch_idx)
        self.log("loss", 1.0)

    assert rows_of(logging_net(training_step=step), numbers(2)) == [(100, {"loss": 1.0}), (101, {"loss": 1.0})]


def test_a_logged_epoch_stays_the_users():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("epoch", 7.0)

    assert rows_of(logging_net(training_step=step), numbers(1)) == [(0, {"epoch": 7.0})]


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("on_train_start", ""),
        ("on_train_epoch_start", ""),
        ("on_train_epoch_end", ""),
        ("on_validation_start", ""),
        ("on_validation_epoch_start", ""),
        ("on_validation_epoch_end", ""),
    ],
)
def test_hooks_outside_of_batches_log_by_epoch(hook, arguments):
    module = logging_net(
        **{hook: lambda self: self.log("x", 2.0), "validation_step": lambda self, batch, batch_idx: None}
    )
    assert rows_of(module, numbers(2), numbers(1)) == [(1, {"x": 2.0, "epoch": 0})]


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_batch_start",
        "on_train_batch_end",
        "on_before_zero_grad",
        "optimizer_zero_grad",
        "on_before_backward",
        "backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "configure_gradient_clipping",
        "optimizer_step",
    ],
)
def test_hooks_of_a_training_batch_log_by_step(hook):
    inner = getattr(Net, hook)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.log("x", 2.0)
        return inner(self, *args, **kwargs)

    rows = rows_of(logging_net(**{hook: call}), numbers(2))
    assert rows == [(0, {"x": 2.0, "epoch": 0}), (1, {"x": 2.0, "epoch": 0})]


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_validation_batch_end"])
def test_hooks_of_an_evaluation_batch_log_by_epoch(hook):
    module = logging_net(
        **{hook: lambda self, *args: self.log("x", 2.0), "validation_step": lambda self, batch, batch_idx: None}
    )
    assert rows_of(module, numbers(2), numbers(2)) == [(1, {"x": 2.0, "epoch": 0})]


def test_callbacks_log_as_the_module_does():
    class Logging(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            self.log("batch", 1.0)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.log_dict({"epoch_end": 2.0})
            pl_module.log("through", 3.0)

    assert rows_of(Net(), numbers(1), callbacks=Logging()) == [
        (0, {"batch": 1.0, "epoch": 0}),
        (0, {"epoch_end": 2.0, "through": 3.0, "epoch": 0}),
    ]


# ---- rows of evaluation


def scored(**options: Any) -> Any:
    """Logs its sample's number in validation and test."""

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("score", batch[0, 0], **options)

    return logging_net(validation_step=step, test_step=step)


def test_a_validation_within_fit_gives_a_row_before_the_epochs_own():
    module = scored()
    type(module).on_train_epoch_end = lambda self: self.log("end", 1.0)
    assert rows_of(module, numbers(4), numbers(3), val_check_interval=2) == [
        (1, {"score": 1.0, "epoch": 0}),
        (3, {"score": 1.0, "epoch": 0}),
        (3, {"end": 1.0, "epoch": 0}),
    ]


def test_evaluations_of_their_own_stand_at_the_step_of_the_fit():
    rows, module = Rows(), scored()
    trainer = make_trainer(logger=rows, log_every_n_steps=1)
    trainer.fit(module, numbers(3), numbers(1))
    trainer.validate(module, numbers(3))
    trainer.test(module, numbers(3))
    assert rows.rows == [
        (2, {"score": 0.0, "epoch": 0}),
        (3, {"score": 1.0, "epoch": 1}),
        (3, {"score": 1.0, "epoch": 1}),
    ]
    fresh = Rows()
    make_trainer(logger=fresh).validate(module, numbers(3))
    assert fresh.rows == [(0, {"score": 1.0, "epoch": 0})]


def test_steps_of_evaluation_have_a_count_of_their_own():
    rows = rows_of(scored(on_step=True), numbers(1), numbers(2), max_epochs=2)
    assert rows == [
        (0, {"score_step": 0.0}),
        (1, {"score_step": 1.0}),
        (0, {"score_epoch": 0.5, "epoch": 0}),
        (2, {"score_step": 0.0}),
        (3, {"score_step": 1.0}),
        (1, {"score_epoch": 0.5, "epoch": 1}),
    ]


def test_the_sanity_check_leaves_no_trace():
    seen = []

    def start(self: Any) -> None:
        trainer = self.trainer
        seen.append((trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics))

    module = scored(prog_bar=True)
    type(module).on_train_start = start
    assert rows_of(module, numbers(1), numbers(4), num_sanity_val_steps=2) == [(0, {"score": 1.5, "epoch": 0})]
    assert seen == [({}, {}, {})]


def test_several_loaders_have_names_of_their_own():
    def step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.log("score", float(dataloader_idx))
        self.log("both", 1.0, on_step=True, on_epoch=True)
        self.log(f"own_{dataloader_idx}", 5.0, add_dataloader_idx=False)

    def end(self: Any) -> None:
        self.log("all", 2.0)

    module = logging_net(test_step=step, on_test_epoch_end=end)
    rows = Rows()
    results = make_trainer(logger=rows).test(module, [numbers(1), numbers(1)])
    assert results == [
        {"score/dataloader_idx_0": 0.0, "both_epoch/dataloader_idx_0": 1.0, "own_0": 5.0, "all": 2.0},
        {"score/dataloader_idx_1": 1.0, "both_epoch/dataloader_idx_1": 1.0, "own_1": 5.0, "all": 2.0},
    ]
    assert rows.rows[0] == (0, {"both_step/dataloader_idx_0": 1.0})
    assert rows.rows[1] == (0, {"both_step/dataloader_idx_1": 1.0})
    assert rows.rows[2] == (0, {**results[0], **results[1], "epoch": 0})


def test_one_loader_has_no_suffix():
    for loaders in (numbers(2), [numbers(2)], {"a": numbers(2)}):
        assert make_trainer().test(scored(), loaders) == [{"score": 0.5}]


def test_one_name_for_several_loaders_is_an_error():
    def step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.log("score", 1.0, add_dataloader_idx=False)

    with pytest.raises(MisconfigurationException, match="several dataloaders"):
        make_trainer().test(logging_net(test_step=step), [numbers(1), numbers(1)])


# ---- what is read on the trainer


def test_what_callbacks_read_and_when():
    seen: dict[str, Any] = {}

    class Looking(Net):
        def note(self, name: str) -> None:
            seen[name] = {key: value.item() for key, value in self.trainer.callback_metrics.items()}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("step", 10.0 + batch_idx, logger=False)
            self.log("mean", 10.0 + batch_idx, on_step=False, on_epoch=True)
            self.log("both", 10.0 + batch_idx, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", 5.0)
            self.log("val_both", 5.0, on_step=True, on_epoch=True)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.note(f"start {batch_idx}")

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.note(f"end {batch_idx}")

        def on_validation_batch_end(self, *args: Any) -> None:
            self.note("in validation")

        def on_validation_epoch_end(self) -> None:
            self.note("validated")

        def on_train_epoch_end(self) -> None:
            self.note("over")

    trainer = make_trainer()
    trainer.fit(Looking(), numbers(2), numbers(1))
    first = {"step": 10.0, "both": 10.0, "both_step": 10.0}
    second = {"step": 11.0, "both": 11.0, "both_step": 11.0}
    validated = {**second, "val": 5.0, "val_both": 5.0, "val_both_epoch": 5.0}
    over = {**validated, "mean": 10.5, "both": 10.5, "both_epoch": 10.5}
    assert seen == {
        "start 0": {}, "end 0": first, "start 1": first, "end 1": second, "in validation": second,
        "validated": validated, "over": over,
    }  # fmt: skip
    assert {k: v.item() for k, v in trainer.callback_metrics.items()} == over


def test_what_loggers_and_the_bar_are_for():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("bar", 1.0, prog_bar=True, logger=False, on_epoch=True)
        self.log("row", 2.0)
        self.log("callbacks", 3.0, logger=False)

    trainer = make_trainer()
    trainer.fit(logging_net(training_step=step), numbers(1))
    assert trainer.progress_bar_metrics == {"bar_step": 1.0, "bar_epoch": 1.0}
    assert all(type(value) is float for value in trainer.progress_bar_metrics.values())
    assert trainer.logged_metrics == {"row": torch.tensor(2.0)}
    assert set(trainer.callback_metrics) == {"bar", "bar_step", "bar_epoch", "row", "callbacks"}


def test_metrics_are_tensors_of_one_number():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        for name, value in {"int": 3, "one": torch.ones(1, 1), "long": torch.tensor(3)}.items():
            self.log(name, value)
        self.log("double", torch.tensor(0.1, dtype=torch.float64))

    trainer = make_trainer()
    trainer.fit(logging_net(training_step=step), numbers(1))
    for name, value in trainer.callback_metrics.items():
        assert value.shape == ()
        assert value.dtype is (torch.float64 if name == "double" else torch.float32)
    assert trainer.callback_metrics["double"].item() == 0.1


def test_a_name_of_training_and_validation_is_of_the_one_that_came_last():
    seen = {}

    class Shared(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 10.0 + batch_idx)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", 5.0)

        def note(self, *args: Any) -> None:
            seen[len(seen)] = self.trainer.callback_metrics["loss"].item()

        on_train_batch_end = on_validation_end = on_train_epoch_end = note

    make_trainer(val_check_interval=2).fit(Shared(), numbers(3), numbers(1))
    assert list(seen.values()) == [10, 11, 5, 12, 12]


def test_each_verb_begins_with_nothing():
    trainer, module = make_trainer(), scored(on_step=True)
    trainer.fit(module, numbers(1), numbers(1))
    trainer.test(module, numbers(2))
    assert {k: v.item() for k, v in trainer.callback_metrics.items()} == {"score": 0.5, "score_epoch": 0.5}
    assert set(trainer.logged_metrics) == {"score_step", "score_epoch"}


def test_values_are_kept_as_they_were_when_logged():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        value = torch.tensor(1.0)
        self.log("x", value, on_epoch=True)
        value += 5

    assert rows_of(logging_net(training_step=step), numbers(1))[0] == (0, {"x_step": 1.0, "epoch": 0})


def test_logged_values_hold_no_graph_unless_asked_for():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("plain", self(batch).mean())
        self.log("graph", self(batch).mean(), enable_graph=True)

    trainer = make_trainer()
    trainer.fit(logging_net(training_step=step), numbers(1))
    assert {name: value.requires_grad for name, value in trainer.callback_metrics.items()} == {
        "plain": False, "graph": True
    }  # fmt: skip


# ---- reductions and weights


Batch = st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 50))


@settings(max_examples=20, deadline=None)
@given(batches=st.lists(Batch, min_size=1, max_size=6), kind=st.sampled_from(["number", "float32", "float64"]))
def test_epoch_values_of_any_batches(batches, kind):
    """mean is weighted by batch_size; sum, min and max are not."""

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        value, size = batches[batch_idx]
        if kind != "number":
            value = torch.tensor(value, dtype=getattr(torch, kind))
        for op in ("mean", "sum", "min", "max"):
            self.log(op, value, reduce_fx=op, batch_size=size)

    (result,) = make_trainer().test(logging_net(test_step=step), numbers(len(batches)))
    values = [value for value, _ in batches]
    mean = math.fsum(value * size for value, size in batches) / sum(size for _, size in batches)
    tolerance = {"abs": 1e-3, "rel": 1e-6} if kind != "float64" else {"abs": 1e-9, "rel": 1e-12}
    assert result["mean"] == pytest.approx(mean, **tolerance)
    assert result["sum"] == pytest.approx(math.fsum(values), **tolerance)
    assert (result["min"], result["max"]) == (min(values), max(values))


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 9), batch_size=st.integers(1, 9))
def test_the_mean_over_batches_is_the_mean_over_samples(length, batch_size):
    class Mean(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mean", batch.mean(), on_step=False, on_epoch=True)
            return self(batch).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", batch.mean())

    trainer = make_trainer()
    trainer.fit(Mean(), numbers(length, batch_size), numbers(length, batch_size))
    for name in ("mean", "val"):
        assert trainer.callback_metrics[name].item() == pytest.approx((length - 1) / 2)


def test_the_mean_of_tensors_kept_as_such_is_weighted_too():
    class Kept(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mean", batch.mean(), on_step=False, on_epoch=True, enable_graph=True)
            return self(batch).mean()

    trainer = make_trainer()
    trainer.fit(Kept(), numbers(5, batch_size=2))
    assert trainer.callback_metrics["mean"] == 2


def test_a_long_epochs_mean_does_not_drift():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 0.1 if batch_idx else 1e4, batch_size=1000)

    (result,) = make_trainer().test(logging_net(test_step=step), numbers(1000))
    assert result["x"] == pytest.approx((1e4 + 999 * 0.1) / 1000, rel=1e-7)


@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [
        ("mean", 2.0), ("sum", 6.0), ("min", 1.0), ("max", 3.0), ("MEAN", 2.0), ("avg", 2.0), (torch.mean, 2.0),
        (torch.sum, 6.0), (torch.min, 1.0), (torch.max, 3.0), (min, 1.0), (max, 3.0), (sum, 6.0),
        (torch.median, 2.0), (lambda values: values[-1] - values[0], 2.0),
    ],
)  # fmt: skip
def test_reductions_by_word_and_function(reduce_fx, expected):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", batch_idx + 1.0, reduce_fx=reduce_fx)

    assert make_trainer().test(logging_net(test_step=step), numbers(3)) == [{"x": expected}]


def test_nan_stays_visible():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        for op in ("mean", "sum", "max"):
            self.log(op, math.nan if batch_idx == 1 else 1.0, reduce_fx=op)

    (result,) = make_trainer().test(logging_net(test_step=step), numbers(3))
    assert all(math.isnan(value) for value in result.values())


@dataclass
class Pair:
    x: Tensor
    y: int


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x],
        lambda x: {"name": "s", "x": x},
        lambda x: {"deep": [{"x": x}]},
        lambda x: Pair(x, 3),
    ],
)
def test_the_batch_size_is_read_off_any_batch(wrap):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", float(batch_idx))

    batches = [wrap(batch) for batch in numbers(5, batch_size=2)]
    assert make_trainer().test(logging_net(test_step=step), iter_again(batches)) == [{"x": pytest.approx(0.8)}]


def iter_again(batches: list[Any]) -> Any:
    """An iterable that is no list, which would be one of loaders."""
    return type("Batches", (), {"__iter__": lambda self: iter(batches), "__len__": lambda self: len(batches)})()


def test_a_batch_without_a_size_needs_one_for_means_only():
    batches = iter_again([object(), object()])

    def with_size(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", float(batch_idx), batch_size=1)
        self.log("sum", 1.0, reduce_fx="sum")

    assert make_trainer().test(logging_net(test_step=with_size), batches) == [{"x": 0.5, "sum": 2.0}]

    def step_only(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0)

    make_trainer().fit(logging_net(training_step=step_only), batches)

    def without(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0)

    with pytest.raises(MisconfigurationException, match=r"batch size cannot be read.*batch_size="):
        make_trainer().test(logging_net(test_step=without), batches)


def test_a_name_logged_twice_in_one_step_counts_twice():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0, on_epoch=True)
        self.log("x", 3.0, on_epoch=True)

    assert rows_of(logging_net(training_step=step), numbers(1)) == [
        (0, {"x_step": 3.0, "epoch": 0}),
        (0, {"x_epoch": 2.0, "epoch": 0}),
    ]


def test_sync_and_rank_zero_change_nothing_with_one_process():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("a", float(batch_idx), sync_dist=True, on_epoch=True)
        self.log("b", float(batch_idx), rank_zero_only=True, on_epoch=True)

    rows = rows_of(logging_net(training_step=step), numbers(2))
    assert rows[-1] == (1, {"a_epoch": 0.5, "b_epoch": 0.5, "epoch": 0})


# ---- torchmetrics


class Measured(Net):
    """Accuracy-like metrics, logged as objects."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.train_mean, self.val_mean = torchmetrics.MeanMetric(), torchmetrics.MeanMetric()
        self.options = options

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.train_mean(float(batch_idx))
        self.log("mean", self.train_mean, **self.options)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_mean.update(batch[0, 0])
        self.log("val", self.val_mean)


def test_a_metric_object_gives_its_batches_and_its_epochs_values_and_is_reset():
    module = Measured(on_step=True, on_epoch=True)
    assert rows_of(module, numbers(3), numbers(3), max_epochs=2) == [
        (0, {"mean_step": 0.0, "epoch": 0}),
        (1, {"mean_step": 1.0, "epoch": 0}),
        (2, {"mean_step": 2.0, "epoch": 0}),
        (2, {"val": 1.0, "epoch": 0}),
        (2, {"mean_epoch": 1.0, "epoch": 0}),
        (3, {"mean_step": 0.0, "epoch": 1}),
        (4, {"mean_step": 1.0, "epoch": 1}),
        (5, {"mean_step": 2.0, "epoch": 1}),
        (5, {"val": 1.0, "epoch": 1}),
        (5, {"mean_epoch": 1.0, "epoch": 1}),
    ]
    assert not module.train_mean.update_called
    assert not module.val_mean.update_called


def test_a_metric_object_logged_by_step_is_reset_too():
    counts = []

    class Looking(Measured):
        def on_train_epoch_start(self) -> None:
            counts.append(self.train_mean.update_count)

    make_trainer(max_epochs=3, limit_val_batches=0).fit(Looking(), numbers(2), numbers(1))
    assert counts == [0, 0, 0]


def test_a_metric_object_is_still_full_at_the_end_of_its_epoch():
    seen = []

    class Looking(Measured):
        def on_validation_end(self) -> None:
            seen.append(self.val_mean.compute().item())

        def on_train_epoch_end(self) -> None:
            seen.append(self.train_mean.compute().item())
            seen.append(self.trainer.callback_metrics["mean"].item())

    make_trainer(max_epochs=2).fit(Looking(on_step=False, on_epoch=True), numbers(3), numbers(3))
    assert seen == [1.0, 1.0, 1.0] * 2


def test_a_metric_that_is_not_logged_as_an_object_is_the_users_to_reset():
    class Own(Measured):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("now", self.train_mean(1.0))
            return self(batch).mean()

    module = Own()
    make_trainer(max_epochs=2, limit_val_batches=0).fit(module, numbers(2), numbers(1))
    assert module.train_mean.update_count == 4


def test_metrics_in_dicts_and_collections():
    class Many(Net):
        def __init__(self) -> None:
            super().__init__()
            metrics = {"mean": torchmetrics.MeanMetric(), "sum": torchmetrics.SumMetric()}
            self.collection = torchmetrics.MetricCollection(metrics, prefix="all/")
            self.parts = torch.nn.ModuleDict({"max": torchmetrics.MaxMetric()})

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.collection.update(batch[0, 0])
            self.parts["max"].update(batch[0, 0])
            self.log_dict(self.collection)
            self.log_dict({"max": self.parts["max"]}, prog_bar=True)
            self.log("named", self.parts["max"], metric_attribute="parts.max")

    trainer = make_trainer()
    (result,) = trainer.test(Many(), numbers(4))
    assert result == {"all/mean": 1.5, "all/sum": 6.0, "max": 3.0, "named": 3.0}
    assert trainer.progress_bar_metrics == {"max": 3.0}


def test_metrics_of_several_loaders():
    class Each(Net):
        def __init__(self) -> None:
            super().__init__()
            self.means = torch.nn.ModuleList(torchmetrics.MeanMetric() for _ in range(2))

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            self.means[dataloader_idx].update(batch[0, 0])
            self.log("mean", self.means[dataloader_idx])

    results = make_trainer().test(Each(), [numbers(3), numbers(5)])
    assert results == [{"mean/dataloader_idx_0": 1.0}, {"mean/dataloader_idx_1": 2.0}]


# ---- refused


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2), r"shape \(2,\) is not a single value.*\.mean\(\)"),
        (torch.ones(0), r"shape \(0,\)"),
        ({"a": 1}, "nested dict.*log_dict"),
        ([1.0], "list cannot be logged"),
        ("0.5", "str cannot be logged"),
        (None, "NoneType cannot be logged"),
        (numpy.ones(2), "ndarray cannot be logged"),
    ],
)
def test_what_is_no_single_value_is_refused(value, words):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", value)

    with pytest.raises((TypeError, ValueError), match=f"self.log.'x'.*{words}"):
        make_trainer().fit(logging_net(training_step=step), numbers(1))


def test_a_shape_that_changes_later_is_refused_too():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", torch.ones(batch_idx + 1))

    with pytest.raises((TypeError, ValueError, RuntimeError)):
        make_trainer().fit(logging_net(training_step=step), numbers(2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": 3}, TypeError, "name must be a str, not 3"),
        ({"name": "a/dataloader_idx_0"}, MisconfigurationException, "are reserved"),
        ({"on_step": False, "on_epoch": False}, MisconfigurationException, "would log nothing"),
        ({"on_step": False}, MisconfigurationException, "would log nothing"),
        ({"reduce_fx": "median"}, MisconfigurationException, "reduce_fx='median'"),
        ({"reduce_fx": None}, MisconfigurationException, "reduce_fx=None"),
    ],
)
def test_wrong_options_are_refused(arguments, error, words):
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log(**{"name": "x", "value": 1.0, **arguments})

    with pytest.raises(error, match=words):
        make_trainer().fit(logging_net(training_step=step), numbers(1))


@pytest.mark.parametrize("change", [{"prog_bar": True}, {"logger": False}, {"on_epoch": True}, {"reduce_fx": "sum"}])
def test_one_name_with_other_options_is_refused(change):
    def at_once(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0)
        self.log("x", 1.0, **change)

    def later(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0, **(change if batch_idx else {}))

    for step in (at_once, later):
        with pytest.raises(MisconfigurationException, match=r"self.log\('x', ...\) was called twice with different"):
            make_trainer().fit(logging_net(training_step=step), numbers(2))


@pytest.mark.parametrize(
    "hook", ["on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_validation_epoch_end"]
)
def test_by_step_is_refused_where_there_are_no_steps(hook):
    module = logging_net(
        **{hook: lambda self: self.log("x", 1.0, on_step=True), "validation_step": lambda self, batch, batch_idx: None}
    )
    with pytest.raises(MisconfigurationException, match="on_step=True"):
        make_trainer().fit(module, numbers(1), numbers(1))


@pytest.mark.parametrize(
    "hook",
    [
        "setup", "configure_model", "configure_optimizers", "configure_callbacks", "train_dataloader", "on_fit_start",
        "on_train_end", "on_fit_end", "teardown", "on_validation_model_eval", "on_validation_end",
        "on_validation_model_train", "on_validation_model_zero_grad", "on_save_checkpoint",
    ],
)  # fmt: skip
def test_hooks_in_which_nothing_can_be_logged(hook):
    inner = getattr(Validated, hook)

    def call(self: Any, *args: Any) -> Any:
        self.log("x", 1.0)
        return inner(self, *args)

    module = type("Logging", (Validated,), {hook: call})()
    save = L.callbacks.LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint("x.ckpt"))
    trainer = make_trainer(callbacks=save)
    with pytest.raises(MisconfigurationException, match=r"self.log\('x', ...\) was called where nothing can be logged"):
        trainer.fit(module, None if hook == "train_dataloader" else numbers(1), numbers(1))


@pytest.mark.parametrize(
    "hook", ["on_predict_start", "on_predict_epoch_start", "on_predict_batch_start", "predict_step",
             "on_predict_batch_end", "on_predict_epoch_end", "on_predict_end"]
)  # fmt: skip
def test_prediction_logs_nothing(hook):
    module = type("Logging", (Validated,), {hook: lambda self, *args: self.log("x", 1.0)})()
    with pytest.raises(MisconfigurationException, match="nothing can be logged"):
        make_trainer().predict(module, numbers(1))


def test_logging_without_a_trainer_says_so_once():
    module = Net()
    with pytest.warns(UserWarning, match="does nothing") as caught:
        [module.log("x", 1.0) for _ in range(3)]
    assert len(caught) == 1
    with pytest.raises(RuntimeError, match="logs while no trainer runs it"):
        L.Callback().log("x", 1.0)


def test_logging_ends_with_the_run():
    module = logging_net(training_step=lambda self, batch, batch_idx: self.log("x", 1.0))
    trainer = make_trainer()
    trainer.fit(module, numbers(1))
    with pytest.warns(UserWarning, match="does nothing"):
        module.log("x", 2.0)
    assert trainer.callback_metrics["x"] == 1


def test_streams_are_logged_as_other_loaders():
    module = scored()
    assert make_trainer().test(module, DataLoader(Stream(3))) == [{"score": 1.0}]
    assert make_trainer().test(module, DataLoader(Numbers(3))) == [{"score": 1.0}]


def test_reading_metrics_between_steps_changes_nothing():
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", float(batch_idx), on_epoch=True)

    def read(trainer: Any, *args: Any) -> None:
        assert trainer.callback_metrics is not None
        assert trainer.progress_bar_metrics is not None
        trainer.callback_metrics["x"] = torch.tensor(9.0)

    plain = rows_of(logging_net(training_step=step), numbers(3))
    reading = LambdaCallback(on_train_batch_start=read, on_train_batch_end=read, on_train_epoch_end=read)
    assert rows_of(logging_net(training_step=step), numbers(3), callbacks=reading) == plain
