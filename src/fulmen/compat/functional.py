"""`pytorch_lightning.metrics.functional`: each function is the class of `compat.metrics` on one batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.functional import bleu_score, image_gradients

from fulmen.compat import metrics
from fulmen.compat.metrics import labels, to_categorical, to_onehot


def _once(metric: Any, preds: Tensor, target: Tensor) -> Any:
    return metric.to(preds.device)(preds, target)


def _num_classes(preds: Tensor, target: Tensor, num_classes: int | None) -> int:
    """The number of classes as it was inferred: from the scores, else from the largest label."""
    if num_classes is not None:
        return num_classes
    return (
        preds.shape[1] if preds.ndim == target.ndim + 1 else int(max(labels(preds, target)[0].max(), target.max())) + 1
    )


def accuracy(preds: Tensor, target: Tensor, num_classes: int | None = None, **options: Any) -> Tensor:
    options.pop("class_reduction", options.pop("reduction", None))
    return _once(metrics.Accuracy(**options), preds, target)


def _of_counts(
    kind: type, preds: Tensor, target: Tensor, num_classes: int | None, average: str, **options: Any
) -> Tensor:
    return _once(kind(_num_classes(preds, target, num_classes), average=average, **options), preds, target)


def precision(preds: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro") -> Tensor:
    return _of_counts(metrics.Precision, preds, target, num_classes, class_reduction)


def recall(preds: Tensor, target: Tensor, num_classes: int | None = None, class_reduction: str = "micro") -> Tensor:
    return _of_counts(metrics.Recall, preds, target, num_classes, class_reduction)


def fbeta(
    preds: Tensor,
    target: Tensor,
    num_classes: int | None = None,
    beta: float = 1.0,
    average: str = "micro",
    **options: Any,
) -> Tensor:
    return _of_counts(metrics.FBeta, preds, target, num_classes, average, beta=beta, **options)


def f1(preds: Tensor, target: Tensor, num_classes: int | None = None, average: str = "micro", **options: Any) -> Tensor:
    return _of_counts(metrics.FBeta, preds, target, num_classes, average, **options)


def iou(preds: Tensor, target: Tensor, num_classes: int | None = None, **options: Any) -> Tensor:
    return _once(metrics.IoU(_num_classes(preds, target, num_classes), **options), preds, target)


def confusion_matrix(
    preds: Tensor, target: Tensor, normalize: Any = None, num_classes: int | None = None, **options: Any
) -> Tensor:
    normalize = "true" if normalize is True else normalize or None
    return _once(metrics.ConfusionMatrix(_num_classes(preds, target, num_classes), normalize, **options), preds, target)


def auroc(preds: Tensor, target: Tensor, sample_weight: Any = None, pos_label: int = 1, **options: Any) -> Tensor:
    return _once(metrics.AUROC(**options), preds, target)


def average_precision(
    preds: Tensor, target: Tensor, sample_weight: Any = None, pos_label: int = 1, **options: Any
) -> Tensor:
    return _once(metrics.AveragePrecision(**options), preds, target)


def mean_squared_error(preds: Tensor, target: Tensor) -> Tensor:
    return _once(metrics.MeanSquaredError(), preds, target)


def mean_absolute_error(preds: Tensor, target: Tensor) -> Tensor:
    return _once(metrics.MeanAbsoluteError(), preds, target)


def psnr(preds: Tensor, target: Tensor, **options: Any) -> Tensor:
    return _once(metrics.PSNR(**options), preds, target)


def ssim(preds: Tensor, target: Tensor, **options: Any) -> Tensor:
    return _once(metrics.SSIM(**options), preds, target)


__all__ = [
    "accuracy", "auroc", "average_precision", "bleu_score", "confusion_matrix", "f1", "fbeta", "image_gradients", "iou",
    "mean_absolute_error", "mean_squared_error", "precision", "psnr", "recall", "ssim", "to_categorical", "to_onehot",
]  # fmt: skip
