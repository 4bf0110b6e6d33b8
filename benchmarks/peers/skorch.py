"""skorch: scikit-learn's interface."""

import torch
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping, ProgressBar

PACKAGE = "skorch"


def make(task, kind=NeuralNet, **options):
    class Loader:
        """skorch makes its loaders itself: here it gets the task's."""

        def __init__(self, dataset, **_):
            pass

        def __len__(self):
            return len(task.loader)

        def __iter__(self):
            return iter(task.loader)

    options = {"verbose": 0, **options}
    optimizer, lr = (torch.optim.Adam, 1e-3) if task.adam else (torch.optim.SGD, 0.01)
    return kind(
        task.model(), criterion=torch.nn.CrossEntropyLoss, optimizer=optimizer, lr=lr, max_epochs=1,
        train_split=None, iterator_train=Loader, iterator_valid=Loader, **options,
    )  # fmt: skip


def fit(**options):
    return lambda task: make(task, **options).fit(task.loader.dataset, None)


train, default, clip = fit(), fit(verbose=1), fit(callbacks=[GradientNormClipping(1.0)])
log = fit(verbose=1, callbacks=[ProgressBar()])


class Accumulating(NeuralNet):
    """As its FAQ writes it."""

    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs) / 4

    def train_step(self, batch, **fit_params):
        bi = len(self.history[-1, "batches"])
        step = self.train_step_single(batch, **fit_params)
        if bi % 4 == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


accumulate = fit(kind=Accumulating)


def predict(task):
    return list(make(task).initialize().forward_iter(task.loader.dataset))
