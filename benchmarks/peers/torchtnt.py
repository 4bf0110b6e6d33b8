"""TorchTNT: units and loops."""

import torch
from torchtnt.framework import evaluate as tnt_evaluate
from torchtnt.framework import predict as tnt_predict
from torchtnt.framework import train as tnt_train
from torchtnt.framework.auto_unit import AutoUnit
from torchtnt.framework.callbacks import TQDMProgressBar
from torchtnt.framework.unit import EvalUnit, PredictUnit, TrainUnit
from torchtnt.utils import init_from_env
from torchtnt.utils.loggers import CSVLogger

PACKAGE = "torchtnt"


class Unit(TrainUnit, EvalUnit, PredictUnit):
    def __init__(self, task, logger=None):
        super().__init__()
        self.task, self.logger, self.total, self.outputs = task, logger, torch.zeros(()), []
        self.module = task.model()
        self.optimizer = task.optimizer(self.module.parameters())

    def train_step(self, state, data):
        x, y = data
        self.optimizer.zero_grad()
        loss = self.task.loss(self.module(x), y)
        loss.backward()
        self.optimizer.step()
        if self.logger is not None and self.train_progress.num_steps_completed % 50 == 49:
            self.logger.log("train_loss", loss.item(), self.train_progress.num_steps_completed)
        return loss

    def eval_step(self, state, data):
        x, y = data
        self.total += self.task.loss(self.module(x), y)

    def predict_step(self, state, data):
        self.outputs.append(self.module(data[0]))


class Auto(AutoUnit):
    def __init__(self, task, **options):
        self.task = task
        super().__init__(module=task.model(), device=torch.device("cpu"), **options)

    def compute_loss(self, state, data):
        x, y = data
        output = self.module(x)
        return self.task.loss(output, y), output

    def configure_optimizers_and_lr_scheduler(self, module):
        return self.task.optimizer(module.parameters()), None


def fit(**options):
    return lambda task: tnt_train(Auto(task, **options), task.loader, max_epochs=1)


def train(task):
    tnt_train(Unit(task), task.loader, max_epochs=1)


def ddp(task):
    init_from_env(device_type="cpu")
    fit(strategy="ddp")(task)


default = train
accumulate, clip, bf16 = fit(gradient_accumulation_steps=4), fit(clip_grad_norm=1.0), fit(precision="bf16")


def log(task):
    unit = Unit(task, CSVLogger("metrics.csv"))
    tnt_train(unit, task.loader, max_epochs=1, callbacks=[TQDMProgressBar()])


def validate(task):
    tnt_evaluate(unit := Unit(task), task.loader)
    return unit.total.item() / task.steps


def predict(task):
    tnt_predict(unit := Unit(task), task.loader)
    return unit.outputs
