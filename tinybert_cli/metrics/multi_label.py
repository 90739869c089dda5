"""Metrics of multi-label classification: yes or no for each of C classes, per row.

Shapes: N rows, C classes, R sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, Sums, column, total
from tinybert_cli.metrics.classification import precision_recall_f1, share_of_all, share_of_class
from tinybert_cli.metrics.probabilities import sigmoid
from tinybert_cli.metrics.slices import most_frequent, unused_name
from tinybert_cli.types import Array, Layout, Predictions

THRESHOLDS = "thresholds"  # in config.json: the probability from which on a row has a class, one per class
MICRO = {"f1": "f1_micro", "precision": "precision_micro", "recall": "recall_micro"}


@dataclass(frozen=True)
class MultiLabelMetric(Metric):
    """F1 over all decisions and over the classes, subset accuracy, Hamming loss, mean average precision, loss."""

    labels: Array  # (N, C) 0 or 1
    names: list[str]

    @property
    def references(self) -> list[list[str]]:
        return [[name for name, marked in zip(self.names, row, strict=True) if marked] for row in self.labels]

    def statistics(self, predictions: Predictions) -> Statistics:
        logits = predictions.known_logits
        predicted, gold = logits >= 0, self.labels == 1
        wrong = (predicted != gold).mean(-1)
        return {
            "rows": np.ones((len(gold), 1)),
            "right": (predicted & gold).astype(np.float64),
            "predicted": predicted.astype(np.float64),
            "gold": gold.astype(np.float64),
            "exact": column(wrong == 0),
            "loss": column(_cross_entropy(logits, self.labels).mean(-1)),
            "hamming_loss": column(wrong),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows = sums["rows"][:, 0]
        metrics = {MICRO.get(name, name): values for name, values in precision_recall_f1(sums, self.names).items()}
        return metrics | {
            "accuracy": sums["exact"][:, 0] / rows,
            "loss": sums["loss"][:, 0] / rows,
            "hamming_loss": sums["hamming_loss"][:, 0] / rows,
        }

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        if name in ("accuracy", "hamming_loss"):
            hits = statistics["exact" if name == "accuracy" else name]
            return total(hits), total(statistics["rows"])
        micro = name.removesuffix("_micro")
        return share_of_all(micro, statistics) if micro != name else share_of_class(name, statistics, self.names)

    def rank_metrics(self, predictions: Predictions) -> dict[str, float]:
        """Mean average precision over the classes that occur. It gets no interval: each would need another sort."""
        from sklearn.metrics import average_precision_score

        precisions = [
            average_precision_score(gold, scores)
            for gold, scores in zip(self.labels.T, predictions.known_logits.T, strict=True)
            if gold.any()
        ]
        return {"map": float(np.mean(precisions)) if precisions else 0.0}

    def row_scores(self, statistics: Statistics) -> Array:
        return np.asarray(statistics["exact"][:, 0])

    def label_slices(self) -> dict[str, Array]:
        index = {name: position for position, name in enumerate(self.names)}
        counts = {name: int(self.labels[:, position].sum()) for name, position in index.items()}
        unlabelled = np.asarray(~self.labels.any(-1))
        return most_frequent(
            counts | {unused_name("none", self.names): int(unlabelled.sum())},
            lambda name: np.asarray(self.labels[:, index[name]] == 1) if name in index else unlabelled,
        )

    def majority_baseline(self) -> float:
        """F1 of always predicting the most frequent classes, as many of them as score best."""
        frequent = np.sort(self.labels.sum(0))[::-1].cumsum()
        predicted = len(self.labels) * np.arange(1, len(frequent) + 1)
        return float((2 * frequent / (predicted + self.labels.sum())).max())

    def tune_thresholds(self, logits: Array, layout: Layout | None = None) -> dict[str, Any]:
        return {THRESHOLDS: best_thresholds(logits, self.labels)}

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array]:
        """Of every decision, yes or no."""
        logits = predictions.known_logits
        probabilities = sigmoid(logits)
        return np.maximum(probabilities, 1 - probabilities).ravel(), ((logits >= 0) == self.labels).ravel()


def best_thresholds(logits: Array, labels: Array) -> list[float]:
    """For each class the probability from which on to predict it, so that f1_micro of all (N, C) decisions is best.

    First the best threshold for all classes together, then class after class given the others, twice; no step makes the
    score worse. Each threshold lies halfway between the two logits that it separates.
    """
    values, gold = logits.astype(np.float64), labels == 1
    (shared,) = _best_cuts(values.reshape(-1, 1), gold.reshape(-1, 1), np.zeros(1), gold.sum())
    cuts = np.full(values.shape[1], shared)
    for _ in range(2):
        cuts = _best_cuts(values, gold, cuts, gold.sum())
    thresholds: list[float] = sigmoid(cuts).clip(1e-6, 1 - 1e-6).tolist()
    return thresholds


def _best_cuts(values: Array, gold: Array, cuts: Array, total: int) -> Array:
    """The logit (C,) from which on each class is predicted, the best one given the cuts of the other classes."""
    cuts = cuts.copy()
    predicted, right = (values >= cuts).sum(0), ((values >= cuts) & gold).sum(0)  # (C,)
    for index in range(values.shape[1]):
        order = np.argsort(-values[:, index], kind="stable")
        falling = values[order, index]
        hits = np.concatenate([[0], np.cumsum(gold[order, index])])  # among the 0, 1, 2, ... largest logits
        counts = np.arange(len(hits))
        others_predicted, others_right = predicted.sum() - predicted[index], right.sum() - right[index]
        f1 = 2 * (others_right + hits) / np.maximum(others_predicted + counts + total, 1)
        f1[1:-1][falling[1:] == falling[:-1]] = -1  # equal logits cannot be separated
        best = int(f1.argmax())
        above = falling[best - 1] if best else falling[0] + 2
        below = falling[best] if best < len(falling) else falling[-1] - 2
        cuts[index] = (above + below) / 2
        predicted[index], right[index] = counts[best], hits[best]
    return cuts


def _cross_entropy(logits: Array, labels: Array) -> Array:
    """Binary cross-entropy of every decision (N, C)."""
    values: Array = np.logaddexp(0, logits.astype(np.float64)) - labels * logits
    return values
