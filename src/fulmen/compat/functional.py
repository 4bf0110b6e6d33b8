"""`pytorch_lightning.metrics.functional`: each function is a class of `compat.metrics` on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics.functional import bleu_score, image_gradients

from fulmen.compat import metrics
from fulmen.compat.metrics import labels, to_categorical, to_onehot

UNUSED = ("sample_weight", "pos_label", "reduction", "return_state")


def _once(kind: Callable[..., Any], by_class: bool = False) -> Callable[..., Any]:
    """The function of a metric; those that count by class find out the number of classes as they did."""

    def function(preds: Tensor, target: Tensor, num_classes: int | None = None, **options: Any) -> Any:
        if "class_reduction" in options:
            options["average"] = options.pop("class_reduction")
        options = {name: value for name, value in options.items() if name not in UNUSED}
        if by_class:
            options["num_classes"] = _num_classes(preds, target) if num_classes is None else num_classes
        return kind(**options).to(preds.device)(preds, target)

    return function


def _num_classes(preds: Tensor, target: Tensor) -> int:
    """From the scores, else from the largest label."""
    if preds.ndim == target.ndim + 1:
        return preds.shape[1]
    return int(max(labels(preds, target)[0].max(), target.max())) + 1


accuracy = _once(metrics.Accuracy)
auroc = _once(metrics.AUROC)
average_precision = _once(metrics.AveragePrecision)
confusion_matrix = _once(metrics.ConfusionMatrix, by_class=True)
f1 = _once(metrics.F1, by_class=True)
fbeta = _once(metrics.FBeta, by_class=True)
iou = _once(metrics.IoU, by_class=True)
mean_absolute_error = _once(metrics.MeanAbsoluteError)
mean_squared_error = _once(metrics.MeanSquaredError)
precision = _once(metrics.Precision, by_class=True)
psnr = _once(metrics.PSNR)
recall = _once(metrics.Recall, by_class=True)
ssim = _once(metrics.SSIM)

__all__ = [
    "accuracy", "auroc", "average_precision", "bleu_score", "confusion_matrix", "f1", "fbeta", "image_gradients", "iou",
    "mean_absolute_error", "mean_squared_error", "precision", "psnr", "recall", "ssim", "to_categorical", "to_onehot",
]  # fmt: skip
