"""fastai's Learner."""

import torch
from fastai.callback.core import CancelValidException
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Callback, Learner
from fastai.optimizer import OptimWrapper

PACKAGE = "fastai"
assert ProgressCallback  # importing it gives Learner its no_bar


class Loaders:
    """What a Learner asks of its DataLoaders, over the task's loader."""

    n_inp, device = 1, torch.device("cpu")

    def __init__(self, loader):
        self.train = self.valid = loader
        self.loader = loader
        if not hasattr(loader, "bs"):
            loader.bs = loader.batch_size

    def __getitem__(self, i):
        return self.loader

    def __len__(self):
        return 2

    def new_empty(self):
        return self


class NoValidation(Callback):
    def before_validate(self):
        raise CancelValidException


def make(task, callbacks=()):
    model = task.model()

    def optimizer(groups, **_):
        return OptimWrapper(opt=task.optimizer(model.parameters()))

    loaders = Loaders(task.loader)
    return Learner(loaders, model, loss_func=task.loss, opt_func=optimizer, train_bn=False, cbs=list(callbacks))


def fit(*kinds):
    def run(task):
        learner = make(task, [NoValidation(), *(kind() for kind in kinds)])
        with learner.no_bar(), learner.no_logging():
            learner.fit(1)

    return run


train, clip = fit(), fit(GradientClip)
accumulate = fit(lambda: GradientAccumulation(32))  # samples: four batches of 8


def default(task):
    make(task, [NoValidation()]).fit(1)


def log(task):
    make(task, [NoValidation(), CSVLogger("metrics.csv")]).fit(1)


def validate(task):
    learner = make(task)
    with learner.no_bar(), learner.no_logging():
        return learner.validate()


def predict(task):
    learner = make(task)
    with learner.no_bar(), learner.no_logging():
        return learner.get_preds(dl=task.loader)
