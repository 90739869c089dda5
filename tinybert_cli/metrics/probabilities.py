"""Probabilities from logits.

Shapes: D decisions (rows or words), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinybert_cli.scratch_files import bound_mapped_memory, empty
from tinybert_cli.types import Array

EPSILON = 1e-12  # smallest probability whose logarithm is taken
PART = 1 << 18  # logits whose probabilities are in memory at a time


def softmax(logits: Array) -> Array:
    """Probabilities (D, C) in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(-1, keepdims=True)
    return probabilities


def most_probable(logits: Array) -> tuple[Array, Array]:
    """The class with the highest probability, and this probability (D,)."""
    probabilities = softmax(logits)
    return probabilities.argmax(-1), probabilities.max(-1)


def in_parts(function: Callable[..., tuple[Array, ...]], *arrays: Array) -> tuple[Array, ...]:
    """`function(*arrays)` for a function of each decision alone, without temporary arrays for all of them.

    Args:
        function: from arrays (D, ...) to arrays (D, ...).
    """
    results: list[Array] = []
    for part in _parts(arrays[0]):
        values = function(*(array[part] for array in arrays))
        results = results or [empty((len(arrays[0]), *own.shape[1:]), own.dtype) for own in values]
        for result, own in zip(results, values, strict=True):
            result[part] = own
        bound_mapped_memory()
    return tuple(results)


def mean_in_parts(function: Callable[..., Array], *arrays: Array) -> float:
    """The mean of `function(*arrays)` (D,), likewise."""
    total = 0.0
    for part in _parts(arrays[0]):
        total += float(function(*(array[part] for array in arrays)).sum())
        bound_mapped_memory()
    return total / len(arrays[0])


def all_equal(logits: Array) -> bool:
    """Whether all decisions (D, C) are for the same class."""
    first = logits[:1].argmax(-1)
    (same,) = in_parts(lambda part: (part.argmax(-1) == first,), logits)
    return bool(same.all())


def _parts(values: Array) -> list[slice]:
    """Slices of rows with about PART numbers each; one of an empty array."""
    step = max(1, PART // max(1, values[:1].size))
    return [slice(begin, begin + step) for begin in range(0, max(1, len(values)), step)]


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
