"""`pytorch_lightning.metrics`, on torchmetrics: with the arguments of then, and classes told from the data as then."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import MetricCollection, functional, image, regression

from fulmen.compat.names import newest_import


class _AnyMetric(ABCMeta):
    """Whatever torchmetrics calls a metric is an instance of the old base class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torchmetrics.Metric) if cls is Metric else super().__instancecheck__(instance)


class Metric(torchmetrics.Metric, metaclass=_AnyMetric):
    """The base class with `compute_on_step`: False leaves out the values of batches and keeps that of the epoch.

    Until 1.2, an epoch's value ended what it was of.
    """

    of_batch = False

    def __init__(self, compute_on_step: bool = True, dist_sync_on_step: bool = False, **kwargs: Any) -> None:
        kwargs = {name: value for name, value in kwargs.items() if name not in ("mdmc_average", "is_multiclass")}
        super().__init__(dist_sync_on_step=dist_sync_on_step, **kwargs)
        self.compute_on_step = compute_on_step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.of_batch = True
        try:
            return super().forward(*args, **kwargs) if self.compute_on_step else self.update(*args, **kwargs)
        finally:
            self.of_batch = False

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        today = super()._wrap_compute(compute)

        @wraps(compute)
        def then(*args: Any, **kwargs: Any) -> Any:
            value, updates = today(*args, **kwargs), self._update_count
            if not self.of_batch and newest_import() < (1, 2):
                self.reset()
                self._computed, self._update_count = value, updates
            return value

        return then

    def add_sums(self, size: tuple[int, ...], *names: str) -> None:
        for name in names:
            self.add_state(name, default=torch.zeros(size), dist_reduce_fx="sum")


def to_onehot(tensor_labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Labels (N, ...) as (N, C, ...)."""
    num_classes = int(tensor_labels.max()) + 1 if num_classes is None else num_classes
    return torch.nn.functional.one_hot(tensor_labels.long(), num_classes).movedim(-1, 1)


def to_categorical(tensor: Tensor, argmax_dim: int = 1) -> Tensor:
    """Probabilities (N, C, ...) as labels (N, ...)."""
    return torch.argmax(tensor, dim=argmax_dim)


def labels(preds: Tensor, target: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Class scores become the likeliest class; probabilities of one class become 0 or 1."""
    if preds.ndim == target.ndim + 1:
        return preds.argmax(1), target.long()
    return (preds >= threshold).long() if preds.is_floating_point() else preds.long(), target.long()


class Accuracy(Metric):
    """The share of right labels; with `top_k`, of labels among the k likeliest."""

    correct: Tensor
    total: Tensor

    def __init__(self, threshold: float = 0.5, top_k: int = 0, subset_accuracy: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold, self.top_k, self.subset_accuracy = threshold, top_k, subset_accuracy
        self.add_sums((), "correct", "total")

    def update(self, preds: Tensor, target: Tensor) -> None:
        if self.top_k and preds.ndim == target.ndim + 1:
            right = (preds.topk(self.top_k, dim=1).indices == target.unsqueeze(1)).any(1)
        else:
            right = torch.eq(*labels(preds, target, self.threshold))
        if self.subset_accuracy and right.ndim > 1:
            right = right.flatten(1).all(1)
        self.correct += right.sum()
        self.total += right.numel()

    def compute(self) -> Tensor:
        return self.correct / self.total


class HammingDistance(Accuracy):
    """The share of wrong labels; of scores of classes, the share of wrong entries in their one-hot form."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        classes = preds.shape[1] if preds.ndim == target.ndim + 1 else 0
        sides = labels(preds, target, self.threshold)
        super().update(*((to_onehot(side, classes) for side in sides) if classes else sides))

    def compute(self) -> Tensor:
        return 1 - super().compute()


class _Counts(Metric):
    """Counts for each class: rightly predicted, predicted, present. `num_classes=1`: of the positive class."""

    right: Tensor
    predicted: Tensor
    present: Tensor

    def __init__(
        self, num_classes: int = 1, threshold: float = 0.5, average: str | None = "micro", multilabel: bool = False,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.num_classes, self.threshold, self.average, self.multilabel = num_classes, threshold, average, multilabel
        self.add_sums((num_classes,), "right", "predicted", "present")

    def update(self, preds: Tensor, target: Tensor) -> None:
        sides = labels(preds, target, self.threshold)
        if self.num_classes > 1:
            sides = [side if self.multilabel else to_onehot(side, self.num_classes) for side in sides]
            sides = [side.movedim(1, 0).flatten(1) for side in sides]
        else:
            sides = [side.reshape(1, -1) for side in sides]
        self.right += (sides[0] * sides[1]).sum(1)
        self.predicted += sides[0].sum(1)
        self.present += sides[1].sum(1)

    def share(self, part: Any, whole: Any) -> Tensor:
        """`part / whole` in the average asked for, 0 where there is nothing."""
        if self.average == "micro":
            part, whole = part.sum(), whole.sum()
        shares = torch.where(whole > 0, part / whole.clamp(min=1e-12), 0.0)
        weights = {"macro": torch.ones_like(self.present), "weighted": self.present}.get(self.average or "")
        return shares if weights is None else (shares * weights / weights.sum()).sum()


class Precision(_Counts):
    def compute(self) -> Tensor:
        return self.share(self.right, self.predicted)


class Recall(_Counts):
    def compute(self) -> Tensor:
        return self.share(self.right, self.present)


class FBeta(_Counts):
    def __init__(self, num_classes: int = 1, beta: float = 1.0, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_classes, *args, **kwargs)
        self.beta = beta

    def compute(self) -> Tensor:
        weight = self.beta**2
        return self.share((1 + weight) * self.right, weight * self.present + self.predicted)


class F1(FBeta):
    def __init__(self, num_classes: int = 1, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_classes, 1.0, *args, **kwargs)


class IoU(_Counts):
    def __init__(
        self, num_classes: int, ignore_index: int | None = None, absent_score: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, average=None, **kwargs)
        self.ignore_index, self.absent_score = ignore_index, absent_score

    def compute(self) -> Tensor:
        union = self.predicted + self.present - self.right
        scores = torch.where(union > 0, self.right / union.clamp(min=1), self.absent_score)
        return scores[torch.arange(self.num_classes) != (-1 if self.ignore_index is None else self.ignore_index)].mean()


class ConfusionMatrix(Metric):
    confmat: Tensor

    def __init__(self, num_classes: int, normalize: str | None = None, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.normalize, self.threshold = num_classes, normalize, threshold
        self.add_sums((num_classes, num_classes), "confmat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        preds, target = labels(preds, target, self.threshold)
        cells = torch.bincount((target * self.num_classes + preds).flatten(), minlength=self.num_classes**2)
        self.confmat += cells.reshape(self.num_classes, self.num_classes)

    def compute(self) -> Tensor:
        dims = {"true": 1, "pred": 0, "all": (0, 1)}.get(self.normalize or "")
        return self.confmat if dims is None else (self.confmat / self.confmat.sum(dims, keepdim=True)).nan_to_num()


class _Curve(Metric):
    """Keeps all scores for torchmetrics' `function`; the task is multiclass with `num_classes` above 1."""

    function = ""
    preds: Any
    target: Any

    def __init__(self, num_classes: int | None = None, pos_label: int | None = None, **kwargs: Any) -> None:
        self.options = {name: kwargs.pop(name) for name in ("average", "max_fpr") if name in kwargs}
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds)
        self.target.append(target.long())

    def compute(self) -> Any:
        task = "multiclass" if self.num_classes and self.num_classes > 1 else "binary"
        sides = [torch.cat(side) if isinstance(side, list) else side for side in (self.preds, self.target)]
        return getattr(functional, self.function)(*sides, task=task, num_classes=self.num_classes, **self.options)


def _curve(name: str, function: str) -> type[_Curve]:
    return _AnyMetric(name, (_Curve,), {"__module__": __name__, "function": function})  # type: ignore[return-value]


AUROC, ROC = _curve("AUROC", "auroc"), _curve("ROC", "roc")
AveragePrecision = _curve("AveragePrecision", "average_precision")
PrecisionRecallCurve = _curve("PrecisionRecallCurve", "precision_recall_curve")


def _as_it_was(old: str, today: type[torchmetrics.Metric]) -> type[torchmetrics.Metric]:
    """A class of torchmetrics that still takes `compute_on_step`."""
    members = {"__module__": __name__, "__doc__": today.__doc__}
    return _AnyMetric(old, (Metric, today), members)  # type: ignore[return-value]


MeanSquaredError = _as_it_was("MeanSquaredError", regression.MeanSquaredError)
MeanAbsoluteError = _as_it_was("MeanAbsoluteError", regression.MeanAbsoluteError)
MeanSquaredLogError = _as_it_was("MeanSquaredLogError", regression.MeanSquaredLogError)
ExplainedVariance = _as_it_was("ExplainedVariance", regression.ExplainedVariance)
R2Score = _as_it_was("R2Score", regression.R2Score)
PSNR = _as_it_was("PSNR", image.PeakSignalNoiseRatio)
SSIM = _as_it_was("SSIM", image.StructuralSimilarityIndexMeasure)
Fbeta, IOU, MSE, MAE = FBeta, IoU, MeanSquaredError, MeanAbsoluteError

__all__ = [
    "AUROC", "F1", "IOU", "MAE", "MSE", "PSNR", "ROC", "SSIM", "Accuracy", "AveragePrecision", "ConfusionMatrix",
    "ExplainedVariance", "FBeta", "Fbeta", "HammingDistance", "IoU", "MeanAbsoluteError", "MeanSquaredError",
    "MeanSquaredLogError", "Metric", "MetricCollection", "Precision", "PrecisionRecallCurve", "R2Score", "Recall",
]  # fmt: skip
