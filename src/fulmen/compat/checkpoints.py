"""Checkpoints that something else wrote, of any era, in today's layout.

Nothing is taken away from them: hooks of the user's still find what they stored. What such a file does not know, the
random states above all, is left as it is in the process that goes on.
"""

from __future__ import annotations

import enum
import pickle
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from fulmen.checkpoint.files import FORMAT
from fulmen.compat import names
from fulmen.loop.progress import IN_EPOCH, VALIDATED, Progress

SCALERS = ("native_amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin")
"""Keys that the state of the gradient scaler has had."""

ADDED_TO_KEY = re.compile(r", 'save_on_train_epoch_end': \w+")
"""A setting that was part of a callback's key for a while."""


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The same checkpoint as Fulmen would have written it, as far as it goes."""
    upgraded = dict(checkpoint)
    if "hparams" in checkpoint and "hyper_parameters" not in checkpoint:
        upgraded["hyper_parameters"] = checkpoint["hparams"]
        upgraded["hparams_name"] = "hparams"
    upgraded["callbacks"] = dict(_callbacks(checkpoint))
    for key in SCALERS:
        if key in checkpoint:
            upgraded["MixedPrecision"] = checkpoint[key]
    upgraded["fulmen"] = {"version": FORMAT, "ranks": [{"loop": _place(checkpoint)}]}
    return upgraded


# ---- where the run stood


def _place(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The state of the training loop."""
    fit = (checkpoint.get("loops") or {}).get("fit_loop")
    steps = checkpoint.get("global_step", 0)
    if not fit or "epoch_loop.batch_progress" not in fit:  # such files were resumed at the start of the epoch they name
        progress = Progress(epoch=checkpoint.get("epoch", 0), batches=steps, steps=steps, stepped=steps)
        return {"progress": progress.state_dict(), "rng": None}
    epochs, batches = fit["epoch_progress"]["current"], fit["epoch_loop.batch_progress"]
    batch = batches["current"]
    progress = Progress(batches=batches["total"]["processed"], steps=steps, stepped=_stepped(fit, steps))
    state: dict[str, Any] = {"rng": None}
    progress.epoch = epochs["completed"]
    is_open = epochs["started"] > epochs["completed"]
    if epochs["processed"] > epochs["completed"] or (is_open and _lacks_value(checkpoint, batches)):
        progress.epoch += 1
    elif is_open and batch["processed"]:
        progress.batch = batch["processed"]
        progress.point = IN_EPOCH if batch["completed"] < batch["processed"] else VALIDATED
        state["loader"] = {"place": _loader(fit.get("state_dict") or {}, progress.batch)}
    return state | {"progress": progress.state_dict()}


def _lacks_value(checkpoint: dict[str, Any], batches: dict[str, Any]) -> bool:
    """Whether at the end of this epoch a scheduler waits for a value of the validation before, which no file has."""
    plateau = any("num_bad_epochs" in state for state in checkpoint.get("lr_schedulers") or ())
    return plateau and batches["is_last_batch"] and batches["current"]["completed"] == batches["current"]["processed"]


def _stepped(fit: dict[str, Any], steps: int) -> int:
    """Batches that ended with an optimizer step: the same as steps, except where one batch can have several."""
    batches = fit["epoch_loop.batch_progress"]["total"]
    manual = fit.get("epoch_loop.manual_optimization.optim_step_progress") or {}
    if manual.get("total", {}).get("completed"):
        return batches["processed"]
    if "epoch_loop.automatic_optimization.optim_progress" in fit:
        return steps
    counted = fit.get("epoch_loop.state_dict", {}).get("_batches_that_stepped", steps)
    return counted + (batches["completed"] < batches["processed"])


def _loader(state: dict[str, Any], batch: int) -> Any:
    """The state of the training data's loaders."""
    states = state.get("combined_loader") or [None]
    own = {"batch_idx": batch, "dataloader_idx": 0, "done": [False] * len(states), "loaders": states}
    return {"begun": None, "own": states[0] if len(states) == 1 else own, "now": {}}


# ---- callbacks


def _callbacks(checkpoint: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """States by today's keys, or by the class's name where the file says no more."""
    states = checkpoint.get("callbacks")
    for key, state in states.items() if isinstance(states, dict) else ():
        name = key.__qualname__ if isinstance(key, type) else ADDED_TO_KEY.sub("", key)
        yield name, _ranked(state) if name.startswith("ModelCheckpoint") else state
    best = checkpoint.get("checkpoint_callback_best_model_score", checkpoint.get("checkpoint_callback_best"))
    if best is not None:
        path = checkpoint.get("checkpoint_callback_best_model_path", "")
        yield "ModelCheckpoint", _ranked({"best_model_score": best, "best_model_path": path})
    if "early_stop_callback_state_dict" in checkpoint:
        yield "EarlyStopping", checkpoint["early_stop_callback_state_dict"]


def _ranked(state: dict[str, Any]) -> dict[str, Any]:
    """With the ranking of files, of which some eras kept the first only."""
    path, score = state.get("best_model_path"), state.get("best_model_score")
    if "best_k_models" in state:
        return state
    if not path or score is None:
        return {**state, "best_model_score": None}
    score = torch.as_tensor(score)
    ranking = {"best_k_models": {path: score}, "kth_best_model_path": path, "kth_value": score}
    return {**state, **ranking, "best_model_score": score}


# ---- names in the file


GLOBAL = re.compile(r"GLOBAL (\S+?)\.?(?=\s)")
"""What the safe loader says of a name that it does not know."""


class Reference:
    """Stands for a class that a file only names; subclasses have its name. It cannot be made."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Reference:
        raise pickle.UnpicklingError(f"GLOBAL {cls.__module__}.{cls.__qualname__} is to be called")


def known(module: str, name: str) -> Any:
    """What a name of the old packages means for a file: an enum, or a plain dict; None where it can be neither."""
    path = names.table_path(module)
    home = names.home(path, name) if path is not None else None
    if home is None:
        return None
    value = names.load(home)
    if isinstance(value, type) and issubclass(value, dict):
        return dict
    return value if isinstance(value, type) and issubclass(value, enum.Enum) else None


def load_old(load: Callable[..., Any], refusal: Exception) -> Any:
    """Read again what `load()` refused, if that was for old names, or for classes that are only named."""
    if isinstance(refusal, ModuleNotFoundError):
        if (refusal.name or "").partition(".")[0] not in names.ROOTS:
            raise refusal
        return load(PICKLE)
    allowed: dict[str, Any] = {}
    while (wanted := GLOBAL.search(str(refusal))) and wanted[1] not in allowed:
        module, _, name = wanted[1].rpartition(".")
        allowed[wanted[1]] = known(module, name) or type(name, (Reference,), {"__module__": module})
        try:
            with torch.serialization.safe_globals([(value, name) for name, value in allowed.items()]):
                return _checked(load())
        except pickle.UnpicklingError as error:
            refusal = error
    raise refusal


def _checked(checkpoint: Any) -> Any:
    """The checkpoint, if what it only names are the callbacks that its states belong to."""
    states = checkpoint.get("callbacks") if isinstance(checkpoint, dict) else None
    rest = {**checkpoint, "callbacks": list(states.values())} if isinstance(states, dict) else checkpoint
    for value in _leaves(rest):
        if isinstance(value, type) and issubclass(value, Reference):
            raise pickle.UnpicklingError(f"GLOBAL {value.__module__}.{value.__qualname__} is needed")
    return checkpoint


def _leaves(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        data = [*data.keys(), *data.values()]
    if not isinstance(data, (list, tuple, set)):
        yield data
        return
    for item in data:
        yield from _leaves(item)


class Unpickler(pickle.Unpickler):
    """Finds classes of the old packages in Fulmen."""

    def find_class(self, module: str, name: str) -> Any:
        path = names.table_path(module)
        home = names.home(path, name) if path is not None else None
        return super().find_class(module, name) if home is None else names.load(home)


PICKLE = SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=pickle.load)
"""What torch.load needs as its `pickle_module`."""
