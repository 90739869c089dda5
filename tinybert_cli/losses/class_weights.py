"""Label weights for `class_weights: balanced`, as in scikit-learn.

Shapes: P predictions, C classes.
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.types import Array


def of_class(labels: Array) -> Array:
    """Weight of each label (P,), n / (n_classes * count[label]) as in scikit-learn's "balanced"; 0 for missing labels.

    n and n_classes count the labels and the classes that occur.
    """
    known = labels[labels >= 0]
    counts: Array = np.maximum(np.bincount(known, minlength=1), 1)
    weights: Array = len(known) / (counts[np.maximum(labels, 0)] * max(1, len(np.unique(known))))
    return np.where(labels >= 0, weights, 0.0).astype(np.float32)


def of_classes(labels: Array) -> Array:
    """Weight of each binary label (P, C): 1, 0 or missing (NaN); `of_class` for each class on its own."""
    weights = np.zeros(labels.shape, dtype=np.float32)
    for index, column in enumerate(labels.T):
        weights[:, index] = of_class(np.where(np.isnan(column), -1, column).astype(np.int64))
    return weights
