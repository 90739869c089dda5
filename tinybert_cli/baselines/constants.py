"""Baselines that give every row the same prediction: the most frequent class, or the mean."""

from __future__ import annotations

import numpy as np

from tinybert_cli.baselines.base import Baseline, Training, log_probabilities, logit, rows_with_gold
from tinybert_cli.tasks import missing
from tinybert_cli.types import Array, Rows


def majority(training: Training, seed: int) -> Baseline:
    """The shares of the classes among the gold labels; the prediction is the most frequent class."""
    if training.task.output_type == "classes":
        known = training.labels[~missing(training.labels).any(-1)]
        logits = logit(known.mean(0))
    else:
        known = training.labels[~missing(training.labels)]
        logits = log_probabilities(np.bincount(known, minlength=len(training.names)) / len(known))
    return _constant(training, logits)


def mean(training: Training, seed: int) -> Baseline:
    """The mean of the gold values."""
    known = training.labels[~missing(training.labels)]
    return _constant(training, np.array([known.mean(dtype=np.float64)], dtype=np.float32))


def _constant(training: Training, logits: Array) -> Baseline:
    def compute(rows: Rows) -> Array:
        return np.tile(logits, (predictions_in(training, rows), 1))

    return Baseline(compute, logits, rows_with_gold(training))


def predictions_in(training: Training, rows: Rows) -> int:
    """The number of predictions for rows: one each, or one for each word."""
    if training.task.splits_long_texts:
        return sum(map(len, rows.column(training.settings.text_columns[0])))
    return len(rows)
