"""LambdaCallback."""

from __future__ import annotations

import inspect

import pytest
from callbacks.small import Scored, fit

import fulmen as L
from fulmen.callbacks import LambdaCallback


def test_functions_are_called_as_hooks():
    called = []
    callback = LambdaCallback(
        setup=lambda trainer, pl_module, stage: called.append(stage),
        on_train_batch_end=lambda trainer, pl_module, outputs, batch, batch_idx: called.append(batch_idx),
        on_train_end=lambda trainer, pl_module: called.append(trainer.global_step),
    )
    fit(Scored([1.0]), callback, max_epochs=1)

    assert called == ["fit", 0, 1, 2, 3, 4]


def test_every_hook_is_a_keyword():
    hooks = {name for name in vars(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")}

    assert set(inspect.signature(LambdaCallback).parameters) == hooks


def test_an_unknown_hook_is_an_error():
    with pytest.raises(TypeError, match="Did you mean 'on_train_end'"):
        LambdaCallback(on_train_ends=print)
