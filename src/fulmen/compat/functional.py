"""`pytorch_lightning.metrics.functional`: each function is a class of `compat.metrics` on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics.functional import explained_variance, image_gradients, mean_squared_log_error, r2_score, text
from torchmetrics.utilities.compute import auc

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


def precision_recall(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return precision(*args, **options), recall(*args, **options)


def bleu_score(translate_corpus: Any, reference_corpus: Any, *args: Any, **options: Any) -> Tensor:
    """Of sentences that are lists of words."""
    references = [[" ".join(words) for words in several] for several in reference_corpus]
    return text.bleu_score([" ".join(words) for words in translate_corpus], references, *args, **options)


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
precision_recall_curve = _once(metrics.PrecisionRecallCurve)
psnr = _once(metrics.PSNR)
r2score = r2_score
recall = _once(metrics.Recall, by_class=True)
roc = _once(metrics.ROC)
ssim = _once(metrics.SSIM)

__all__ = [
    "accuracy", "auc", "auroc", "average_precision", "bleu_score", "confusion_matrix", "explained_variance", "f1",
    "fbeta", "image_gradients", "iou", "mean_absolute_error", "mean_squared_error", "mean_squared_log_error",
    "precision", "precision_recall", "precision_recall_curve", "psnr", "r2score", "recall", "roc", "ssim",
    "to_categorical", "to_onehot",
]  # fmt: skip
