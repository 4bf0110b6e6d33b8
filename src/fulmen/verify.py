"""Checks of the user's classes before a run, so that mistakes are told before time is spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from fulmen.callbacks.base import Callback
from fulmen.combined import CombinedLoader
from fulmen.datamodule import LightningDataModule
from fulmen.errors import MisconfigurationException, nearest
from fulmen.hooks import check_spelling, check_step, has_others, overrides, require
from fulmen.loop.source import Source
from fulmen.module import LightningModule
from fulmen.states import TrainerStatus
from fulmen.warn import rank_zero_warn

if TYPE_CHECKING:
    from fulmen.trainer import Trainer


def module_of(model: Any, verb: str) -> LightningModule:
    """The LightningModule behind what was passed, also out of torch.compile."""
    if isinstance(model, type):
        raise TypeError(
            f"trainer.{verb}: model is the class {model.__name__}; pass an instance: {model.__name__}(...)."
        )
    inner = vars(model).get("_modules", {}).get("_orig_mod") if hasattr(model, "__dict__") else None
    if isinstance(inner, LightningModule):
        return _compiled(model, inner)
    if not isinstance(model, LightningModule):
        raise TypeError(f"trainer.{verb}: model is a {type(model).__name__}; it must be a LightningModule.")
    if "_modules" not in model.__dict__:
        raise RuntimeError(
            f"{type(model).__name__}.__init__ did not call super().__init__() before anything else; add it."
        )
    return model


def _compiled(model: Any, inner: LightningModule) -> LightningModule:
    """Use the compiled forward within the module's own steps."""
    if "forward" not in inner.__dict__:
        inner.__dict__["forward"] = model.dynamo_ctx(inner.forward)
    return inner


def not_within(trainer: Trainer, verb: str) -> None:
    """One verb after the other, not from the hooks of a loop."""
    if trainer.logs.phase is not None and trainer.state.status == TrainerStatus.RUNNING:
        raise MisconfigurationException(
            f"trainer.{verb} was called within another run of this trainer: use a second Trainer for it, or call it "
            "afterwards."
        )


def arguments(verb: str, unknown: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """What unknown keywords of a verb mean today; an error with the nearest name where nobody knows them."""
    if not unknown:
        return {}
    from fulmen.compat.arguments import translate_call

    translated = translate_call(verb, unknown, set(known))
    for name in translated:
        if name not in known:
            raise TypeError(
                f"trainer.{verb} has no argument {name!r}.{nearest(name, known)} It takes {', '.join(known)}."
            )
    return translated


def datamodule(given: Any, loaders: tuple[Any, ...]) -> None:
    if given is None:
        return
    if not isinstance(given, LightningDataModule):
        hint = f"; pass an instance: {given.__name__}(...)" if isinstance(given, type) else ""
        raise TypeError(f"datamodule={given!r:.100} is not a LightningDataModule{hint}.")
    if any(loader is not None for loader in loaders):
        raise MisconfigurationException(
            "Both datamodule and dataloaders were passed, which cannot go together; pass one."
        )
    check_spelling(given, LightningDataModule)


def fit(trainer: Trainer, module: LightningModule, train: Source, val: Source) -> None:
    """Everything that fit can know before it starts."""
    data = trainer.datamodule
    check_spelling(module, LightningModule)
    require(module, LightningModule, "training_step", "with the signature (self, batch, batch_idx), returning the loss")
    check_step(module, "training_step")
    require(module, LightningModule, "configure_optimizers", "so that it returns an optimizer")
    if not train.exists and trainer.limit_train_batches != 0:
        from fulmen.compat.hooks import find_loader

        find_loader(train, module)
        if not train.exists:
            raise train.missing(module, data)
    once = isinstance(train.given, Iterator) and not isinstance(train.given, CombinedLoader)
    if once and (trainer.max_epochs or 0) > 1:
        rank_zero_warn(
            "train_dataloaders is an iterator, which gives its batches once: epochs after the first will have none. "
            "Pass what it was made from."
        )
    has_step = overrides(module, "validation_step", LightningModule)
    if has_step:
        check_step(module, "validation_step")
        if not val.exists and trainer.limit_val_batches != 0:
            rank_zero_warn(
                f"{type(module).__name__} has validation_step, but there are no validation data: pass "
                "val_dataloaders=... or define val_dataloader."
            )
    elif val.exists and trainer.limit_val_batches != 0:
        rank_zero_warn(
            f"There are validation data, but {type(module).__name__} has no validation_step: no validation runs."
        )
    if data is None and not module.automatic_optimization and overrides(module, "optimizer_step", LightningModule):
        rank_zero_warn("optimizer_step is not called with manual optimization; step in training_step instead.")


def evaluation(trainer: Trainer, module: LightningModule, source: Source, verb: str) -> None:
    step = {"validate": "validation_step", "test": "test_step"}[verb]
    check_spelling(module, LightningModule)
    require(module, LightningModule, step, f"with the signature (self, batch, batch_idx) to use trainer.{verb}")
    check_step(module, step)
    if not source.exists:
        raise source.missing(module, trainer.datamodule)


def prediction(trainer: Trainer, module: LightningModule, source: Source, kept: Any) -> None:
    if not (kept is None or isinstance(kept, bool) or kept == "all"):
        raise MisconfigurationException(f"predict(return_predictions={kept!r}) must be True, False or 'all'.")
    check_spelling(module, LightningModule)
    if not overrides(module, "predict_step", LightningModule) and not overrides(module, "forward", nn.Module):
        raise MisconfigurationException(
            f"{type(module).__name__} has neither predict_step nor forward; define one of them to use trainer.predict."
        )
    check_step(module, "predict_step")
    if not source.exists:
        raise source.missing(module, trainer.datamodule)


def callbacks(callbacks: list[Callback], new_trainer: Trainer | None = None) -> None:
    """No two with the same key for their state; hooks spelt right."""
    seen: dict[str, Callback] = {}
    for callback in callbacks:
        check_spelling(callback, Callback)
        if new_trainer is not None and has_others(callback, Callback):
            from fulmen.compat.hooks import constructed

            constructed(new_trainer, callback)
        if not (overrides(callback, "state_dict", Callback) or overrides(callback, "on_save_checkpoint", Callback)):
            continue
        other = seen.setdefault(callback.state_key, callback)
        if other is not callback:
            raise MisconfigurationException(
                f"callbacks has two {type(callback).__name__} with the same state_key {callback.state_key!r}, so their "
                "states cannot be told apart in a checkpoint. Give them different settings, or override state_key."
            )
