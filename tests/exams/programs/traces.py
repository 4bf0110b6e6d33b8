"""Runs the programs of the seeds on standard input, one a line, and prints what hooks, loggers and callers saw.

The first argument says with what: fulmen, or lightning. What differs on purpose is left out: checkpoints' places among
the hooks, validation of several loaders within an accumulation.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import sys
import tempfile
import warnings
from glob import glob
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

if sys.argv[1] == "fulmen":
    import fulmen as L
    from fulmen.callbacks import EarlyStopping, ModelCheckpoint
    from fulmen.loggers import Logger
else:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import Logger

OWN = (
    "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step", "backward",
    "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer", "configure_model",
    "on_validation_model_eval", "on_validation_model_train", "on_validation_model_zero_grad",
    "on_test_model_eval", "on_predict_model_eval", "on_test_model_train",
)  # fmt: skip
HEARD = (
    "on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start",
    "on_train_epoch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_start", "on_train_batch_end", "on_validation_start",
    "on_validation_end", "on_validation_epoch_start", "on_validation_epoch_end", "on_test_start", "on_test_end",
    "on_predict_start", "on_predict_end", "on_predict_epoch_end", "on_sanity_check_start",
    "on_sanity_check_end", "setup", "teardown",
)  # fmt: skip


def plan(seed: int) -> dict[str, Any]:
    """What the program of a seed is made of."""
    chance = random.Random(seed)
    choose = chance.choice
    optimizer = choose(["sgd", "adam", "lbfgs", "manual"])
    whole = optimizer in ("lbfgs", "manual")
    interval = choose([1, 2, 0.5, 1.0])
    return {
        "optimizer": optimizer,
        "own": [name for name in OWN if chance.random() < 0.2],
        "heard": [name for name in HEARD if chance.random() < 0.5],
        "train": chance.randint(3, 9),
        "others": [chance.randint(1, 6) for _ in range(choose([1, 1, 2]))],
        "schedule": choose([None, {}, {"interval": "step", "frequency": chance.randint(1, 3)}]),
        "log": {"on_step": choose([True, None]), "on_epoch": choose([True, False]), "prog_bar": choose([True, False])},
        "reduce": choose(["mean", "max", "sum"]),
        "stop": chance.random() < 0.3,
        "save": chance.random() < 0.3,
        "verbs": ["fit", *chance.sample(["validate", "test", "predict"], chance.randint(0, 3))],
        "trainer": {
            "max_epochs": chance.randint(1, 3),
            "num_sanity_val_steps": choose([0, 1]),
            "log_every_n_steps": choose([1, 2, 3]),
            "accumulate_grad_batches": 1 if whole else choose([1, 2, 3]),
            "gradient_clip_val": None if whole else choose([None, 0.1]),
            "precision": choose(["32-true", "32-true", "bf16-mixed"]),
            "limit_train_batches": choose([1.0, 1.0, 2]),
            "val_check_interval": 1.0 if interval == 2 else interval,
            "check_val_every_n_epoch": choose([1, 1, 2]),
        },
    }


def number(value: Any) -> float:
    return float(f"{float(value):.4g}")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(one) for name, one in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if value is None else number(value)


class Rows(Logger):
    name, version, save_dir, experiment = "rows", 0, ".", None  # type: ignore[assignment]

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.seen.append(["row", step, plain(metrics)])


class Module(L.LightningModule):
    def __init__(self, planned: dict[str, Any], seen: list[Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.planned, self.seen = planned, seen
        self.layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))
        self.automatic_optimization = planned["optimizer"] != "manual"

    def loss(self, batch: list[Tensor], name: str, number: int) -> Tensor:
        self.seen.append([name, self.global_step, self.current_epoch, number, self.training, torch.is_grad_enabled()])
        return (self.layer(batch[0]).squeeze(-1) - batch[1]).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch, "training_step", batch_idx)
        self.log("loss", loss * (1 + batch_idx), reduce_fx=self.planned["reduce"], **self.planned["log"])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", self.loss(batch, "validation_step", batch_idx), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log_dict({"test": self.loss(batch, "test_step", batch_idx), "number": float(batch_idx)})

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"sum": self.layer(batch[0]).sum()}

    def configure_optimizers(self) -> Any:
        kinds = {"adam": lambda p: Adam(p, 0.05), "lbfgs": lambda p: LBFGS(p, 0.1, max_iter=3)}
        optimizer = kinds.get(self.planned["optimizer"], lambda p: SGD(p, 0.05))(self.parameters())
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
        settings = self.planned["schedule"]
        return optimizer if settings is None else ([optimizer], [{"scheduler": scheduler, **settings}])


def told(kind: type, name: str, begin: str) -> None:
    """Let a hook of `kind` be seen before it does what it does."""
    own = getattr(kind, name)

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append([begin + name])
        return own(self, *args, **kwargs)

    setattr(kind, name, hook)


def run(seed: int) -> list[Any]:
    planned, seen = plan(seed), []
    module_kind, callback_kind = type("Own", (Module,), {}), type("Heard", (L.Callback,), {"seen": seen})
    for name in planned["own"]:
        told(module_kind, name, "module ")
    for name in planned["heard"]:
        told(callback_kind, name, "callback ")
    L.seed_everything(3)
    module, random_numbers = module_kind(planned, seen), torch.Generator().manual_seed(seed)

    def loader(length: int) -> DataLoader[Any]:
        data = torch.randn(length, 3, generator=random_numbers), torch.randn(length, generator=random_numbers)
        return DataLoader(TensorDataset(*data), batch_size=2)

    train, others = loader(planned["train"]), [loader(length) for length in planned["others"]]
    suffix = "/dataloader_idx_0" if len(others) > 1 else ""
    callbacks: list[Any] = [callback_kind()]
    callbacks += [EarlyStopping(f"val{suffix}", patience=0)] if planned["stop"] else []
    callbacks += [ModelCheckpoint("kept", monitor=f"val{suffix}", filename="{step}")] if planned["save"] else []
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": planned["save"]}
    engine = {"accelerator": "cpu", "devices": 1, "logger": Rows(seen), "callbacks": callbacks}
    trainer = L.Trainer(**engine, **quiet, **planned["trainer"])
    for verb in planned["verbs"]:
        words = {"verbose": False} if verb in ("validate", "test") else {}
        given = (train, others) if verb == "fit" else (others,)
        seen.append([verb, plain(getattr(trainer, verb)(module, *given, **words))])
        state = trainer.global_step, trainer.current_epoch, module.training, sorted(glob("kept/*"))
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        weights = sum(parameter.double().abs().sum().item() for parameter in module.parameters())
        seen.append([*state, plain(trainer.callback_metrics), plain(rates), number(weights)])
    return seen


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(folder)
            found = run(int(line))
            os.chdir("/")
        print(json.dumps(found), flush=True)
