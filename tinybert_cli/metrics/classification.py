"""Metrics of text classification: one of C classes per row.

Shapes: N rows, C classes, R sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, Sums, column, of_column, ratio, total
from tinybert_cli.metrics.calibration import brier, calibration_error, gaps_by_bin
from tinybert_cli.metrics.class_values import ClassValues
from tinybert_cli.metrics.one_hot import one_hot
from tinybert_cli.metrics.probabilities import all_equal, cross_entropy, in_parts, most_probable, softmax
from tinybert_cli.metrics.slices import by_value
from tinybert_cli.types import Array, Predictions


@dataclass(frozen=True)
class ClassificationMetric(Metric):
    """accuracy, F1, MCC, cross-entropy, calibration, and precision and recall of each class."""

    biased: ClassVar[frozenset[str]] = frozenset({"ece"})
    labels: Array  # (N,) class indices
    names: list[str]

    @property
    def references(self) -> ClassValues:
        return ClassValues(self.labels, self.names)

    def statistics(self, predictions: Predictions) -> Statistics:
        logits, classes = predictions.known_logits, len(self.names)
        loss, brier_scores, confidences, predicted, right = in_parts(_scores, logits, self.labels)
        return {
            "rows": np.broadcast_to(1.0, (len(right), 1)),
            "right": one_hot(self.labels, classes, right),
            "gold": one_hot(self.labels, classes),
            "predicted": one_hot(predicted, classes),
            "loss": column(loss),
            "brier": column(brier_scores),
            "gaps": gaps_by_bin(confidences, right),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows, right, gold, predicted = sums["rows"][:, 0], sums["right"], sums["gold"], sums["predicted"]
        present = (gold + predicted) > 0  # a class that occurs nowhere has no F1
        f1 = ratio(2 * right, gold + predicted)
        covariance = right.sum(-1) * rows - (gold * predicted).sum(-1)  # Gorodkin 2004
        spread = np.sqrt((rows**2 - (predicted**2).sum(-1)) * (rows**2 - (gold**2).sum(-1)))
        return {
            "accuracy": right.sum(-1) / rows,
            "f1_macro": f1.sum(-1) / present.sum(-1),
            "mcc": ratio(covariance, spread),
            "loss": sums["loss"][:, 0] / rows,
            "ece": calibration_error(sums["gaps"], rows),
            "f1_weighted": (f1 * gold).sum(-1) / rows,
            "brier": sums["brier"][:, 0] / rows,
            **of_each("precision", ratio(right, predicted), self.names),
            **of_each("recall", ratio(right, gold), self.names),
        }

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        if name == "accuracy":
            return total(statistics["right"]), total(statistics["rows"])
        return share_of_class(name, statistics, self.names)

    def undefined(self, predictions: Predictions) -> dict[str, str]:
        if (self.labels == self.labels[:1]).all():
            return {"mcc": "all labels are equal"}
        return {"mcc": "all predictions are equal"} if all_equal(predictions.known_logits) else {}

    def row_scores(self, statistics: Statistics) -> Array:
        return total(statistics["right"])

    def label_slices(self) -> dict[str, Array]:
        return by_value(self.references)

    def majority_baseline(self) -> float:
        return float(np.bincount(self.labels).max() / len(self.labels))

    def class_logits(self, predictions: Predictions) -> tuple[Array, Array]:
        return predictions.known_logits, self.labels

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array]:
        (_, confidences) = in_parts(most_probable, predictions.known_logits)
        return confidences, self.row_scores(statistics) == 1


def _scores(logits: Array, labels: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Cross-entropy, Brier score, confidence, predicted class and whether it is right of each row (N,)."""
    probabilities, predicted = softmax(logits), logits.argmax(-1)
    loss, brier_scores = cross_entropy(logits, labels), brier(probabilities, labels)
    return loss, brier_scores, probabilities.max(-1), predicted.astype(np.int32), predicted == labels


def of_each(metric: str, values: Array, names: Sequence[str]) -> dict[str, Array]:
    """(R, C) → `metric[class]` → (R,)."""
    return {f"{metric}[{name}]": values[:, index] for index, name in enumerate(names)}


def share_of_class(name: str, statistics: Statistics, names: Sequence[str]) -> tuple[Array, Array] | None:
    """Hits and counts of each row (N,) of precision, recall and F1 of one class; see `Metric.proportion`."""
    metric, _, label = name.removesuffix("]").partition("[")
    if metric not in ("precision", "recall", "f1") or label not in names:
        return None
    right, predicted, gold = (of_column(statistics[key], names.index(label)) for key in ("right", "predicted", "gold"))
    return _share(metric, right, predicted, gold)


def share_of_all(metric: str, statistics: Statistics) -> tuple[Array, Array] | None:
    """Hits and counts of each row (N,) of `precision`, `recall` and `f1` of all decisions; see `Metric.proportion`."""
    if metric not in ("precision", "recall", "f1"):
        return None
    return _share(metric, *(total(statistics[key]) for key in ("right", "predicted", "gold")))


def _share(metric: str, right: Array, predicted: Array, gold: Array) -> tuple[Array, Array]:
    if metric == "f1":
        return 2 * right, predicted + gold
    return right, predicted if metric == "precision" else gold


def precision_recall_f1(sums: Sums, names: Sequence[str]) -> dict[str, Array]:
    """precision, recall and f1 of all decisions and of each class, and f1_macro over the classes that occur (R,).

    Args:
        sums: how many decisions for each class are `right`, `predicted` and `gold` (R, C).
    """
    right, predicted, gold = sums["right"], sums["predicted"], sums["gold"]
    f1 = ratio(2 * right, predicted + gold)
    return {
        "precision": ratio(right.sum(-1), predicted.sum(-1)),
        "recall": ratio(right.sum(-1), gold.sum(-1)),
        "f1": ratio(2 * right.sum(-1), (predicted + gold).sum(-1)),
        "f1_macro": ratio(f1.sum(-1), ((predicted + gold) > 0).sum(-1)),
        **of_each("f1", f1, names),
        **of_each("precision", ratio(right, predicted), names),
        **of_each("recall", ratio(right, gold), names),
    }
