"""The metrics of old releases count as they counted then; expected values by hand."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

torchmetrics = pytest.importorskip("torchmetrics")

from fulmen.compat import functional, metrics  # noqa: E402

TARGET = torch.tensor([0, 1, 2, 2])
LABELS = torch.tensor([0, 1, 1, 2])
SCORES = torch.nn.functional.one_hot(LABELS, 3).float()
P, T = torch.tensor([0.9, 0.6, 0.4, 0.2]), torch.tensor([1, 0, 1, 0])


def test_accuracy_takes_labels_scores_and_probabilities():
    assert metrics.Accuracy()(LABELS, TARGET) == 0.75
    assert metrics.Accuracy()(SCORES, TARGET) == 0.75
    assert metrics.Accuracy()(P, T) == 0.5
    assert metrics.Accuracy(threshold=0.3)(P, T) == 0.75


def test_accuracy_of_the_k_likeliest():
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])

    assert metrics.Accuracy(top_k=2)(scores, torch.tensor([1, 2])) == 0.5


def test_accuracy_over_batches_is_that_of_all():
    accuracy = metrics.Accuracy()
    accuracy(LABELS[:1], TARGET[:1])
    accuracy(LABELS[1:], TARGET[1:])

    assert accuracy.compute() == 0.75


def test_compute_on_step_false_leaves_out_the_value_of_the_batch():
    accuracy = metrics.Accuracy(compute_on_step=False)

    assert accuracy(LABELS, TARGET) is None
    assert accuracy.compute() == 0.75


@pytest.mark.parametrize(
    ("average", "precision", "recall", "f1"),
    [("micro", 0.75, 0.75, 0.75), ("macro", 5 / 6, 5 / 6, (1 + 2 / 3 + 2 / 3) / 3)],
)
def test_precision_recall_and_f1(average, precision, recall, f1):
    assert metrics.Precision(3, average=average)(LABELS, TARGET).item() == pytest.approx(precision)
    assert metrics.Recall(3, average=average)(LABELS, TARGET).item() == pytest.approx(recall)
    assert metrics.F1(3, average=average)(LABELS, TARGET).item() == pytest.approx(f1)
    assert metrics.FBeta(3, beta=1.0, average=average)(LABELS, TARGET).item() == pytest.approx(f1)


def test_one_class_is_the_positive_one():
    assert metrics.Precision()(P, T) == 0.5
    assert metrics.Recall()(P, T) == 0.5


def test_confusion_matrix_and_iou():
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])

    assert torch.equal(metrics.ConfusionMatrix(3)(LABELS, TARGET), expected)
    assert metrics.ConfusionMatrix(3, normalize="true")(LABELS, TARGET)[2].tolist() == [0, 0.5, 0.5]
    assert metrics.IoU(3)(LABELS, TARGET).item() == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert metrics.IoU(3, ignore_index=0)(LABELS, TARGET).item() == 0.5


def test_curves():
    assert metrics.AUROC()(P, T) == 0.75
    assert metrics.AUROC(num_classes=3)(SCORES, TARGET) == pytest.approx((1 + 5 / 6 + 0.75) / 3)
    assert metrics.AveragePrecision()(P, T).item() == pytest.approx((1 + 2 / 3) / 2)
    assert len(metrics.ROC()(P, T)) == 3


def test_regression_takes_the_old_arguments():
    error = metrics.MeanSquaredError(compute_on_step=True, dist_sync_on_step=False)

    assert error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])) == 2.0
    assert isinstance(pickle.loads(pickle.dumps(error)), torchmetrics.MeanSquaredError)


def test_whatever_torchmetrics_calls_a_metric_is_one():
    assert isinstance(torchmetrics.MeanMetric(), metrics.Metric)
    assert isinstance(metrics.Accuracy(), torchmetrics.Metric)
    assert not isinstance(torchmetrics.MeanMetric(), metrics.Accuracy)


def test_a_metric_of_ones_own_on_the_old_base_class():
    class Count(metrics.Metric):
        def __init__(self, compute_on_step=True):
            super().__init__(compute_on_step=compute_on_step, dist_sync_on_step=False)
            self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

        def update(self, preds, target):
            self.count += preds.numel()

        def compute(self):
            return self.count

    assert Count()(LABELS, TARGET) == 4


def test_functions():
    assert functional.accuracy(SCORES, TARGET, num_classes=3) == 0.75
    assert functional.precision(LABELS, TARGET, class_reduction="macro").item() == pytest.approx(5 / 6)
    assert functional.recall(LABELS, TARGET) == 0.75
    assert functional.f1(LABELS, TARGET, num_classes=3) == 0.75
    assert functional.auroc(P, T, pos_label=1) == 0.75
    assert functional.confusion_matrix(LABELS, TARGET).shape == (3, 3)
    assert functional.mean_squared_error(torch.tensor([1.0]), torch.tensor([3.0])) == 4
    assert functional.to_onehot(torch.tensor([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert functional.to_categorical(SCORES).tolist() == LABELS.tolist()


def test_functions_of_whole_curves_and_of_sentences():
    false, true, _ = functional.roc(P, T)
    assert functional.auc(false, true) == functional.auroc(P, T)
    assert len(functional.precision_recall_curve(P, T)) == 3
    assert [one.item() for one in functional.precision_recall(LABELS, TARGET)] == [0.75, 0.75]
    assert functional.r2score(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])) == 1
    assert functional.bleu_score([["the", "cat", "sat"]], [[["the", "cat", "sat"], ["a", "cat"]]], n_gram=2) == 1


def test_how_samples_of_many_labels_are_averaged_may_be_said():
    assert metrics.Precision(3, average="micro", mdmc_average="global")(LABELS, TARGET) == 0.75


def test_hamming_distance_is_of_labels_or_of_scores_in_one_hot_form():
    assert metrics.HammingDistance()(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [0, 1]])) == 0.25
    assert functional.hamming_distance(SCORES, TARGET).item() == pytest.approx(2 / 12)


def test_true_and_false_positives_and_negatives():
    x, y = torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3])

    assert functional.get_num_classes(x, y) == 4
    assert [int(one) for one in functional.stat_scores(x, y, class_index=1)] == [0, 1, 2, 0, 0]
    assert [one.tolist() for one in functional.stat_scores_multiple_classes(x, y)] == [
        [0, 0, 1, 1], [0, 1, 0, 0], [2, 2, 2, 2], [1, 0, 0, 0], [1, 0, 1, 1]
    ]  # fmt: skip
    assert functional.stat_scores(x, y, reduce="macro", num_classes=4)[0].tolist() == [0, 0, 2, 1, 1]
    assert functional.stat_scores(x, y).tolist() == [2, 1, 8, 1, 3]
    assert functional.stat_scores(P, T).tolist() == [1, 1, 1, 1, 2]  # of the one class that probabilities are of


def test_dice_score_leaves_out_the_background():
    assert functional.dice_score(SCORES, TARGET).item() == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert functional.dice_score(SCORES, TARGET, bg=True).item() == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_functions_of_0_8_and_their_names():
    first, second = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.5, 2.0, 3.0])

    assert functional.f1_score(LABELS, TARGET) == functional.f1(LABELS, TARGET, class_reduction="macro")
    assert functional.f1_score(LABELS, TARGET, class_reduction="micro") == functional.f1(LABELS, TARGET) == 0.75
    each = functional.fbeta_score(LABELS, TARGET, 2.0, 3, reduction="none")
    assert each.tolist() == functional.fbeta(LABELS, TARGET, 3, beta=2.0, class_reduction="none").tolist()
    assert functional.mse(first, second, reduction="sum") == 1.25
    assert functional.rmse(first, second).item() == pytest.approx((1.25 / 3) ** 0.5)
    assert functional.mae(first, second) == 0.5
    assert functional.rmsle(first, second).item() == pytest.approx(2 * math.log(1.25) ** 2 / 3)


def test_how_alike_the_rows_of_a_batch_are():
    rows = torch.tensor([[1.0, 2.0], [3.0, 1.0]])

    assert functional.embedding_similarity(rows)[0].tolist() == pytest.approx([0, 0.5**0.5])
    alike = functional.embedding_similarity(rows, similarity="dot", reduction="sum", zero_diagonal=False)
    assert alike.tolist() == [10, 15]
