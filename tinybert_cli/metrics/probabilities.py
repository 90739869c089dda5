"""Probabilities from logits.

Shapes: D decisions (rows or words), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinybert_cli.types import Array

EPSILON = 1e-12  # smallest probability whose logarithm is taken


def softmax(logits: Array) -> Array:
    """Probabilities (D, C) in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(-1, keepdims=True)
    return probabilities


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities (D, C), in float64; finite for finite logits."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probabilities: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probabilities


def sigmoid(logits: Array) -> Array:
    """The probability of each class by itself, in float64, in the shape of the logits."""
    from scipy.special import expit

    probabilities: Array = expit(logits.astype(np.float64))
    return probabilities


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log p(label) of each decision (D,)."""
    values: Array = -log_softmax(logits)[np.arange(len(labels)), labels]
    return values


def mean_class_logits(logits: Sequence[Array], weights: Sequence[float]) -> Array:
    """An ensemble: the log of the weighted mean of the models' probabilities (D, C); of a single model its logits."""
    if len(logits) == 1:
        return logits[0]
    mean = np.average([softmax(values) for values in logits], axis=0, weights=weights)
    mean_logits: Array = np.log(mean.clip(EPSILON)).astype(np.float32)
    return mean_logits
