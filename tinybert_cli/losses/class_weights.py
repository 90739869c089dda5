"""How much each label counts, so that all classes count alike: `class_weights: balanced`, as scikit-learn has it.

Shapes: A answers, C classes.
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.types import Array


def of_class(labels: Array) -> Array:
    """Of each label (A,): A / (C · as many as have it), for the C classes that there are; 0 where it is missing."""
    known = labels[labels >= 0]
    counts: Array = np.maximum(np.bincount(known, minlength=1), 1)
    weights: Array = len(known) / (counts[np.maximum(labels, 0)] * max(1, len(np.unique(known))))
    return np.where(labels >= 0, weights, 0.0).astype(np.float32)


def of_classes(labels: Array) -> Array:
    """Of each decision (A, C), yes (1), no (0) or missing (NaN): as `of_class`, each class's yes and no by itself."""
    weights = np.zeros(labels.shape, dtype=np.float32)
    for index, column in enumerate(labels.T):
        weights[:, index] = of_class(np.where(np.isnan(column), -1, column).astype(np.int64))
    return weights
