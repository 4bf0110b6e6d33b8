"""The base class, and the package's names."""

from __future__ import annotations

import inspect

import pytest
from callbacks.small import QUIET, Scored, fit

import fulmen as L
from fulmen import callbacks


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_listed_callback_is_there(name):
    assert issubclass(getattr(callbacks, name), callbacks.Callback)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchCallback"):
        callbacks.NoSuchCallback  # noqa: B018


def test_state_key_is_the_class_and_its_settings():
    class Mine(L.Callback):
        @property
        def state_key(self):
            return self._generate_state_key(a=1, b="x")

    assert L.Callback().state_key == "Callback"
    assert Mine().state_key == f"{Mine.__qualname__}{{'a': 1, 'b': 'x'}}"


def test_logging_outside_a_run_says_where_to_log():
    with pytest.raises(RuntimeError, match=r"Trainer\(callbacks=\[...\]\)"):
        L.Callback().log("a", 1)


def test_callbacks_log_inside_a_run():
    class Logs(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.log("one", 1.0)
            self.log_dict({"two": 2.0})

    trainer = fit(Scored([0.0]), Logs(), max_epochs=1)

    assert trainer.callback_metrics["one"] == 1
    assert trainer.callback_metrics["two"] == 2


def test_state_survives_in_the_checkpoint(tmp_path):
    class Counter(L.Callback):
        count = 0

        def on_train_batch_end(self, *args):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state_dict):
            self.count = state_dict["count"]

    fit(Scored([0.0]), Counter(), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    restored = Counter()
    trainer = L.Trainer(callbacks=[restored], **{**QUIET, "max_epochs": 2})
    trainer.fit(Scored([0.0, 0.0, 0.0]), ckpt_path=tmp_path / "a.ckpt")

    assert restored.count == 8


def test_every_hook_takes_trainer_and_module_first():
    hooks = [name for name in vars(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")]

    assert len(hooks) == 37
    for name in hooks:
        assert list(inspect.signature(getattr(L.Callback, name)).parameters)[:3] == ["self", "trainer", "pl_module"]
