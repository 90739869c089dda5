"""Calibration: how well confidence predicts accuracy (Guo et al. 2017, arXiv 1706.04599).

Shapes: D decisions (rows or words), C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tinybert_cli.metrics.one_hot import OneHot, one_hot
from tinybert_cli.metrics.probabilities import cross_entropy, in_parts, mean_in_parts, softmax
from tinybert_cli.scratch_files import bound_mapped_memory, empty
from tinybert_cli.types import Array

BINS = 15  # of confidence, for the calibration error
LIMIT = 3.0  # of the logarithm of a fitted temperature

Fit = Callable[[Array, Array], float]


def brier(probabilities: Array, labels: Array) -> Array:
    """Squared distance of the probabilities from the one-hot label, summed over the classes (Brier 1950) (D,)."""
    distances = probabilities.copy()
    distances[np.arange(len(labels)), labels] -= 1
    brier_scores: Array = np.einsum("dc,dc->d", distances, distances)
    return brier_scores


def gaps_by_bin(confidence: Array, correct: Array) -> OneHot:
    """Confidence minus correctness of each decision, in the column of its bin (D, BINS)."""
    bins, gaps = in_parts(_gaps, confidence, correct)
    return one_hot(bins, BINS, gaps)


def _gaps(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """The bin of each decision, and confidence minus correctness (D,)."""
    bins = np.minimum((confidence * BINS).astype(np.uint8), BINS - 1)
    return bins, confidence - correct


def calibration_error(gaps: Array, decisions: Array) -> Array:
    """Expected calibration error (R,), from sums of `gaps_by_bin` (R, BINS) over so many decisions (R,)."""
    error: Array = np.abs(gaps).sum(-1) / np.maximum(decisions, 1)
    return error


def temperature_scaling(logits: Array, labels: Array, fit: Fit | None = None) -> dict[str, float]:
    """Calibration after temperature scaling, the temperature of each half of the decisions fitted on the other half.

    `temperature` is the one that fits all decisions together.

    Args:
        fit: from logits (D, C) and labels (D,) to a temperature; None = the one with the smallest cross-entropy.
    """
    fit = fit or _best_temperature
    confidences, right, scores = (empty(labels.shape, kind) for kind in (np.float64, bool, np.float64))
    for half in (0, 1):
        scored, other = slice(half, None, 2), slice(1 - half, None, 2)
        temperature = fit(logits[other], labels[other]) if len(labels) > 1 else 1.0
        scaled = in_parts(partial(_scaled, temperature), logits[scored], labels[scored])
        for values, own in zip((confidences, right, scores), scaled, strict=True):
            values[scored] = own
            bound_mapped_memory()
    gaps = gaps_by_bin(confidences, right).sum(axis=0)
    return {
        "temperature": fit(logits, labels),
        "ece_scaled": float(calibration_error(gaps, np.asarray(len(labels)))),
        "brier_scaled": float(scores.mean()),
    }


def limit_reached(temperature: float) -> str | None:
    """What a `temperature` of `temperature_scaling` says if it ends at a limit of its search; None within them."""
    if abs(np.log(temperature)) < LIMIT - 0.01:
        return None
    if temperature < 1:
        why = "since all decisions, or many more than the confidences say, are right"
        return f"{temperature:.2g}, the lower limit of its search, {why}"
    return (
        f"{temperature:.2g}, the upper limit of its search, since its confidences do not tell which decisions are right"
    )


def _scaled(temperature: float, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Confidence, whether it is right, and Brier score of each decision (D,) at a temperature."""
    probabilities = softmax(logits / temperature)
    return probabilities.max(-1), probabilities.argmax(-1) == labels, brier(probabilities, labels)


def calibration(logits: Array, labels: Array) -> dict[str, float]:
    """`ece` and `brier` of D decisions between C classes, from logits (D, C)."""
    probabilities = softmax(logits)
    gaps = gaps_by_bin(probabilities.max(-1), probabilities.argmax(-1) == labels).sum(axis=0)
    return {
        "ece": float(calibration_error(gaps, np.asarray(len(labels)))),
        "brier": float(brier(probabilities, labels).mean()),
    }


def fitted_temperature(logits: Array, labels: Array) -> float:
    """The T from 0.01 to 100 for which softmax(logits / T) has the smallest cross-entropy.

    One more wrong decision than there is, at the mean confidence, keeps T finite where every decision is right.
    """
    wrong = np.argmin(logits, axis=-1)
    extra = int(np.argsort(softmax(logits).max(-1))[len(logits) // 2])
    with_wrong = np.concatenate([logits, logits[extra : extra + 1]])
    return _best_temperature(with_wrong, np.append(labels, wrong[extra]), limit=np.log(100))


def _best_temperature(logits: Array, labels: Array, *, limit: float = LIMIT) -> float:
    """The T for which softmax(logits / T) has the smallest cross-entropy, and whose logarithm is within the limit.

    The smallest one if all decisions are right: the cross-entropy falls with T, until it is 0 in floating point.
    """
    from scipy.optimize import minimize_scalar

    if not mean_in_parts(lambda part, own: part.argmax(-1) != own, logits, labels):
        return float(np.exp(-limit))

    def loss(log_temperature: float) -> float:
        def scaled(part: Array, own: Array) -> Array:
            return cross_entropy(part.astype(np.float64) / np.exp(log_temperature), own)

        return mean_in_parts(scaled, logits, labels)

    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))
