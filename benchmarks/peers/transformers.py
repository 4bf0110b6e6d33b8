"""Hugging Face Transformers' Trainer."""

from torch import nn
from transformers import Trainer, TrainingArguments

PACKAGE = "transformers"
QUIET = {"logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0.0}


class Model(nn.Module):
    """Returns its loss, as the Trainer wants it."""

    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": self.loss(logits, labels), "logits": logits}


class Dicts:
    """The task's loader, each batch as keyword arguments."""

    sampler = None

    def __init__(self, loader):
        self.loader, self.dataset, self.batch_size = loader, loader.dataset, loader.batch_size

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for x, y in self.loader:
            yield {"x": x, "labels": y}


def make(task, **options):
    class Own(Trainer):
        def get_train_dataloader(self):
            return Dicts(task.loader)

        def get_eval_dataloader(self, eval_dataset=None):
            return Dicts(task.loader)

        def get_test_dataloader(self, test_dataset):
            return Dicts(task.loader)

    model = Model(task.model(), task.loss)
    args = TrainingArguments(output_dir="out", num_train_epochs=1, use_cpu=True, report_to="none", **options)
    optimizer = task.optimizer(model.parameters())
    return Own(model=model, args=args, train_dataset=task.loader.dataset, optimizers=(optimizer, None))


def fit(**options):
    return lambda task: make(task, **options).train()


train = ddp = fit(**QUIET)
log = fit(logging_steps=50, save_strategy="no", max_grad_norm=0.0)
default = fit()
accumulate = fit(**QUIET, gradient_accumulation_steps=4)
clip = fit(**{**QUIET, "max_grad_norm": 1.0})
bf16 = fit(**QUIET, bf16=True)


def validate(task):
    return make(task, **QUIET).evaluate(task.loader.dataset)


def predict(task):
    return make(task, **QUIET).predict(task.loader.dataset)
