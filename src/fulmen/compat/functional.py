"""`pytorch_lightning.metrics.functional`: each function is a class of `compat.metrics` on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import explained_variance, image_gradients, mean_squared_log_error, r2_score, text
from torchmetrics.functional.pairwise import pairwise_cosine_similarity, pairwise_linear_similarity
from torchmetrics.utilities.compute import auc

from fulmen.compat import metrics
from fulmen.compat.metrics import labels, to_categorical, to_onehot

UNUSED = ("sample_weight", "pos_label", "reduction", "return_state")


def _once(kind: Callable[..., Any], by_class: bool = False) -> Callable[..., Any]:
    """The function of a metric; those that count by class find out the number of classes as they did."""

    def function(preds: Tensor, target: Tensor, num_classes: int | None = None, **options: Any) -> Any:
        if "class_reduction" in options:
            options["average"] = options.pop("class_reduction")
        elif by_class and "reduction" in options:  # so it was called until 1.0
            options["average"] = "macro" if options["reduction"] == "elementwise_mean" else options["reduction"]
        options = {name: value for name, value in options.items() if name not in UNUSED}
        if by_class:
            options["num_classes"] = get_num_classes(preds, target) if num_classes is None else num_classes
        return kind(**options).to(preds.device)(preds, target)

    return function


def get_num_classes(preds: Tensor, target: Tensor, num_classes: int | None = None) -> int:
    """As given, else from the scores, else from the largest label."""
    if num_classes is not None or preds.ndim == target.ndim + 1:
        return num_classes or preds.shape[1]
    return int(max(labels(preds, target)[0].max(), target.max())) + 1


def precision_recall(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return precision(*args, **options), recall(*args, **options)


def bleu_score(translate_corpus: Any, reference_corpus: Any, *args: Any, **options: Any) -> Tensor:
    """Of sentences that are lists of words."""
    references = [[" ".join(words) for words in several] for several in reference_corpus]
    return text.bleu_score([" ".join(words) for words in translate_corpus], references, *args, **options)


def stat_scores_multiple_classes(pred: Tensor, target: Tensor, num_classes: int | None = None) -> tuple[Tensor, ...]:
    """True and false positives, true and false negatives, and how often it is there: of each class."""
    binary = pred.is_floating_point() and pred.ndim == target.ndim
    counts = metrics.Recall(1 if binary else get_num_classes(pred, target, num_classes)).to(pred.device)
    counts.update(pred, target)
    right, predicted, present = counts.right.long(), counts.predicted.long(), counts.present.long()
    return right, predicted - right, target.numel() - predicted - present + right, present - right, present


def stat_scores(preds: Tensor, target: Tensor, class_index: Any = None, *_: Any, **options: Any) -> Any:
    """The five numbers of one class; without one a tensor: of all classes in sum, or with reduce="macro" of each."""
    scores = stat_scores_multiple_classes(preds, target, options.get("num_classes"))
    if isinstance(class_index, int):
        return tuple(score[class_index] for score in scores)
    every = torch.stack(scores, -1)
    return every if "macro" in (class_index, options.get("reduce")) else every.sum(0)


def dice_score(pred: Tensor, target: Tensor, bg: bool = False, no_fg_score: float = 0.0, **__: Any) -> Tensor:
    """The mean over the classes, of which the first is left out without `bg`; absent ones have `no_fg_score`."""
    right, wrong, _, missed, present = (score[1 - bg :] for score in stat_scores_multiple_classes(pred, target))
    return torch.where(present > 0, 2 * right / (2 * right + wrong + missed), no_fg_score).mean()


def fbeta_score(pred: Tensor, target: Tensor, beta: float, num_classes: int | None = None, **options: Any) -> Tensor:
    """`fbeta` as it was until 1.0: the mean over the classes."""
    return fbeta(pred, target, num_classes, beta=beta, **{"reduction": "elementwise_mean", **options})


def f1_score(pred: Tensor, target: Tensor, *args: Any, **options: Any) -> Tensor:
    return fbeta_score(pred, target, 1.0, *args, **options)


def _error(of: Callable[[Tensor, Tensor], Tensor], root: bool = False) -> Callable[..., Tensor]:
    def function(pred: Tensor, target: Tensor, reduction: str = "elementwise_mean", **_: Any) -> Tensor:
        each = of(pred, target)
        whole = each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()
        return whole.sqrt() if root else whole

    return function


def embedding_similarity(
    batch: Tensor, similarity: str = "cosine", reduction: str = "none", zero_diagonal: bool = True
) -> Tensor:
    """How alike the rows are, each to each."""
    kind: Any = pairwise_cosine_similarity if similarity == "cosine" else pairwise_linear_similarity
    return kind(batch, reduction=reduction, zero_diagonal=zero_diagonal)


accuracy = _once(metrics.Accuracy)
auroc = _once(metrics.AUROC)
average_precision = _once(metrics.AveragePrecision)
confusion_matrix = _once(metrics.ConfusionMatrix, by_class=True)
f1 = _once(metrics.F1, by_class=True)
fbeta = _once(metrics.FBeta, by_class=True)
hamming_distance = _once(metrics.HammingDistance)
iou = _once(metrics.IoU, by_class=True)
mae = _error(lambda pred, target: (pred - target).abs())
mse, rmse = (_error(lambda pred, target: (pred - target) ** 2, root) for root in (False, True))
rmsle = _error(lambda pred, target: ((pred + 1) / (target + 1)).log() ** 2)  # without a root, as it was
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
    "accuracy", "auc", "auroc", "average_precision", "bleu_score", "confusion_matrix", "dice_score",
    "embedding_similarity", "explained_variance", "f1", "f1_score", "fbeta", "fbeta_score", "get_num_classes",
    "hamming_distance", "image_gradients", "iou", "mae", "mean_absolute_error", "mean_squared_error",
    "mean_squared_log_error", "mse", "precision", "precision_recall", "precision_recall_curve", "psnr", "r2score",
    "recall", "rmse", "rmsle", "roc", "ssim", "stat_scores", "stat_scores_multiple_classes", "to_categorical",
    "to_onehot",
]  # fmt: skip
