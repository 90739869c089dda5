"""Two models compared: fidelity of a model to its reference, and paired tests.

Shapes: N rows, D decisions (rows or words), C classes.
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.metrics.probabilities import in_parts, log_softmax, softmax
from tinybert_cli.metrics.proportions import wilson
from tinybert_cli.scratch_files import counts
from tinybert_cli.types import Array


def class_fidelity(logits: Array, reference: Array) -> dict[str, float]:
    """How close the class distributions of two models are (D, C).

    `agreement`: share of equal predictions; `kl`: divergence from the reference at T = 1; `confidence_correlation`:
    Spearman correlation of both models' confidences.
    """
    divergence, p, q = in_parts(_divergence, logits, reference)
    return {
        "agreement": float((logits.argmax(-1) == reference.argmax(-1)).mean()) if len(p) else 1.0,
        "kl": max(0.0, float(divergence.mean())) if len(p) else 0.0,
        "confidence_correlation": rank_correlation(p, q),
    }


def _divergence(logits: Array, reference: Array) -> tuple[Array, Array, Array]:
    """The divergence from the reference, and the confidences of the reference and of the model (D,)."""
    p, q = softmax(reference), softmax(logits)
    return (p * (log_softmax(reference) - log_softmax(logits))).sum(-1), p.max(-1), q.max(-1)


def agreement_interval(agreement: float, rows: int) -> dict[str, float]:
    """`agreement_low` and `agreement_high` of a share of independent rows."""
    low, high = wilson(agreement * rows, rows)
    return {"agreement_low": low, "agreement_high": high}


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's correlation; 0 if either does not vary."""
    from scipy.stats import spearmanr

    if not len(one) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def mcnemar(correct: Array, reference_correct: Array) -> dict[str, float]:
    """Rows (N,) that only the reference gets right, rows that only the model does, and McNemar's exact test.

    `mcnemar_p` is the probability of a split at least as uneven if both models were equally good (Dietterich 1998).
    """
    from scipy.stats import binomtest

    lost, won = int((reference_correct & ~correct).sum()), int((correct & ~reference_correct).sum())
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return {"rows_lost": lost, "rows_won": won, "mcnemar_p": p}


def bootstrap_p(differences: Array, difference: float) -> float:
    """The p-value of a difference between two models, from its resampled values (R,), as in sacreBLEU.

    It is how often a resample is as far from the mean of the resamples as the difference is from 0.
    """
    as_far = np.abs(differences - differences.mean()) >= abs(difference)
    return float((as_far.sum() + 1) / (len(differences) + 1))


def confusion_matrix(logits: Array, labels: Array) -> Array:
    """How often each gold class (rows) was predicted as each class (columns): (C, C)."""
    classes = logits.shape[-1]

    def cells(logits: Array, labels: Array) -> tuple[Array]:
        return (labels * classes + logits.argmax(-1),)

    (cell,) = in_parts(cells, logits, labels)
    return counts(cell, classes**2).reshape(classes, classes)


def best_class_order(logits: Array, labels: Array) -> list[int]:
    """The order of the classes in which the predictions fit the labels best."""
    from scipy.optimize import linear_sum_assignment

    _, predicted = linear_sum_assignment(confusion_matrix(logits, labels), maximize=True)
    order: list[int] = predicted.tolist()
    return order
