"""Label weights for `class_weights: balanced`, as in scikit-learn.

Shapes: P predictions, C classes.
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.scratch_files import PART, GrowingArray
from tinybert_cli.types import Array


def of_class(labels: Array) -> Array:
    """Weight of each label (P,), n / (n_classes * count[label]) as in scikit-learn's "balanced"; 0 for missing labels.

    n and n_classes count the labels and the classes that occur.
    """
    parts = [labels[begin : begin + PART] for begin in range(0, len(labels), PART)]
    counts = np.zeros(1 + max(0, int(labels.max(initial=0))), dtype=np.int64)
    for part in parts:
        counts += np.bincount(part[part >= 0], minlength=len(counts))
    weights = counts.sum() / (np.maximum(counts, 1) * max(1, np.count_nonzero(counts)))  # of each class
    result = GrowingArray(np.float32)
    for part in parts:
        result.append(np.where(part >= 0, weights[np.maximum(part, 0)], 0.0))
    return result.finish()


def of_classes(labels: Array) -> Array:
    """Weight of each binary label (P, C): 1, 0 or missing (NaN); `of_class` for each class on its own."""
    weights = np.zeros(labels.shape, dtype=np.float32)
    for index, column in enumerate(labels.T):
        weights[:, index] = of_class(np.where(np.isnan(column), -1, column).astype(np.int64))
    return weights
