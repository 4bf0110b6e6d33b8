"""Everything that speaks Lightning's interface: Fulmen and Lightning run the same words, `L` is either."""

import importlib
from functools import partial

import torch
from cases import WHOLE

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
ONE = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}


def module_of(L, task, log=None, **log_options):  # noqa: N803 - the name in their documentation
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = task.model()

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = task.loss(self.net(x), y)
            if log:
                self.log(log, loss, **log_options)
            return loss

        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

        def configure_optimizers(self):
            return task.optimizer(self.parameters())

    return Module


def train(L, task, **options):  # noqa: N803
    L.Trainer(**{**ONE, **QUIET, **options}).fit(module_of(L, task)(), task.loader)


def log(L, task):  # noqa: N803
    logger = importlib.import_module(f"{L.__name__}.loggers").CSVLogger(".")
    trainer = L.Trainer(**ONE, logger=logger, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(module_of(L, task, "train_loss", prog_bar=True)(), task.loader)


def default(L, task):  # noqa: N803
    L.Trainer(max_epochs=1).fit(module_of(L, task, "train_loss")(), task.loader)


def validate(L, task):  # noqa: N803
    class Validating(module_of(L, task)):
        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", task.loss(self.net(x), y), batch_size=len(x))

    return L.Trainer(**ONE, **QUIET).validate(Validating(), task.loader, verbose=False)


def predict(L, task):  # noqa: N803
    return L.Trainer(**ONE, **QUIET).predict(module_of(L, task)(), task.loader)


def manual(L, task):  # noqa: N803
    class Manual(module_of(L, task)):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            x, y = batch
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(task.loss(self.net(x), y))
            optimizer.step()

    L.Trainer(**ONE, **QUIET).fit(Manual(), task.loader)


def accelerated(L, task):  # noqa: N803
    torch.set_float32_matmul_precision("high")
    module, mode, options = module_of(L, task)(), task.case.compile, {"accelerator": "auto"}
    if mode == WHOLE:
        options |= {"cuda_graph": True} if L.__name__ == "fulmen" else {}
    elif mode and L.__name__ == "fulmen":
        options["compile"] = {"mode": mode}
    elif mode:
        module = torch.compile(module, mode=mode)
    L.Trainer(max_epochs=1, devices=1, **QUIET, **options).fit(module, task.loader)


def checkpoint(L, task):  # noqa: N803
    module, trainer = module_of(L, task), L.Trainer(**ONE, **QUIET)
    trainer.fit(module(), task.loader)
    with task.timed("save"):
        trainer.save_checkpoint("file.ckpt")
    with task.timed("load"):
        module.load_from_checkpoint("file.ckpt", weights_only=True)


WAYS = {
    way.__name__: way for way in (train, log, default, validate, predict, manual, accelerated, checkpoint)
} | {
    "accumulate": partial(train, accumulate_grad_batches=4),
    "clip": partial(train, gradient_clip_val=1.0),
    "bf16": partial(train, precision="bf16-mixed"),
    "ddp": partial(train, devices=2, strategy="ddp", use_distributed_sampler=False),
}  # fmt: skip


def build(root):
    """The functions of an adapter, written against `root`, the module to import from."""
    base = importlib.import_module(root)
    return {"script": (base.Trainer, base.LightningModule)} | {n: partial(way, base) for n, way in WAYS.items()}
