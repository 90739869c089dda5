"""How good the answers of a classifier are, and how sure one may be of that.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinybert_cli.types import Array

BINS = 15  # of confidence, for the calibration error
_TABLES = 2**22  # numbers in the tables of classes that are held at once
LEAST = 1e-12  # a probability whose logarithm is taken


def softmax(logits: Array) -> Array:
    """Probabilities (N, C) in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    result: Array = shifted / shifted.sum(-1, keepdims=True)
    return result


def score(logits: Array, labels: Array) -> dict[str, float]:
    """What a run is watched by: accuracy, f1_macro, mcc, loss, ece."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted, probabilities = logits.argmax(-1), softmax(logits)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "mcc": float(matthews_corrcoef(labels, predicted)),
        "loss": float(losses(probabilities, labels).mean()),
        "ece": calibration_error(probabilities.max(-1), predicted == labels),
    }


def details(logits: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
    """What a finished model is judged by as well: f1_weighted, brier, and precision and recall of each class."""
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    predicted = logits.argmax(-1)
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    return {
        "f1_weighted": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
        "brier": float(_brier_terms(softmax(logits), labels).mean()),
        **{f"precision[{name}]": float(value) for name, value in zip(names, precision, strict=True)},
        **{f"recall[{name}]": float(value) for name, value in zip(names, recall, strict=True)},
    }


def resampled(logits: Array, labels: Array, names: Sequence[str], *, resamples: int, seed: int) -> dict[str, Array]:
    """Every metric of `score` and `details` on rows drawn with replacement (R,): the bootstrap.

    The same seed draws the same rows, so that the difference of two models' values is a paired one.
    """
    classes, count = len(names), len(labels)
    probabilities, predicted = softmax(logits), logits.argmax(-1)
    pairs = labels * classes + predicted
    confidence = probabilities.max(-1)
    gaps = confidence - (predicted == labels)
    bins = _bins(confidence, BINS)
    entropies, brier = losses(probabilities, labels), _brier_terms(probabilities, labels)

    most = max(1, _TABLES // classes**2)
    tables = np.empty((min(most, resamples), classes, classes))  # gold, predicted
    of_tables: list[dict[str, Array]] = []
    found = {name: np.empty(resamples) for name in ("loss", "brier", "ece")}
    random = np.random.default_rng(seed)
    for index in range(resamples):
        rows = random.integers(count, size=count)
        tables[index % most] = np.bincount(pairs[rows], minlength=classes**2).reshape(classes, classes)
        if index % most == most - 1 or index == resamples - 1:
            of_tables.append(_of_tables(tables[: index % most + 1], names))
        found["loss"][index], found["brier"][index] = entropies[rows].mean(), brier[rows].mean()
        found["ece"][index] = np.abs(np.bincount(bins[rows], weights=gaps[rows], minlength=BINS)).sum() / count
    return {name: np.concatenate([part[name] for part in of_tables]) for name in of_tables[0]} | found


def fidelity(logits: Array, reference: Array) -> dict[str, float]:
    """How far the logits (N, C) say what the reference's (N, C) say.

    Same answers, KL divergence from the reference at T = 1, and whether both are sure of the same rows (Spearman).
    """
    from scipy.stats import spearmanr

    p, q = softmax(reference), softmax(logits)
    kl = (p * (np.log(p.clip(LEAST)) - np.log(q.clip(LEAST)))).sum(-1).mean()
    sure = p.max(-1), q.max(-1)
    varied = all(np.ptp(values) > 0 for values in sure)  # else there is no order to compare
    return {
        "agreement": float((logits.argmax(-1) == reference.argmax(-1)).mean()),
        "kl": max(0.0, float(kl)),
        "confidence_correlation": float(spearmanr(*sure).statistic) if varied else 0.0,
    }


def discordant(right: Array, reference_right: Array) -> dict[str, float]:
    """Rows (N,) that one of both gets right and the other wrong, and McNemar's exact test of their numbers.

    `mcnemar_p` is the chance of numbers at least so uneven, if both were equally good (Dietterich 1998).
    """
    from scipy.stats import binomtest

    lost, won = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return {"rows_lost": lost, "rows_won": won, "mcnemar_p": p}


def calibrated(logits: Array, labels: Array) -> dict[str, float]:
    """Calibration after temperature scaling (Guo et al. 2017), the temperature of each half fitted on the other.

    `temperature` is the one that all rows together ask for.
    """
    scaled = np.empty(logits.shape)
    halves = np.arange(len(labels)) % 2
    for half in (0, 1):
        here, other = halves == half, halves != half
        fitted = _temperature(logits[other], labels[other]) if other.any() else 1.0
        scaled[here] = softmax(logits[here] / fitted)
    return {
        "temperature": _temperature(logits, labels),
        "ece_scaled": calibration_error(scaled.max(-1), scaled.argmax(-1) == labels),
        "brier_scaled": float(_brier_terms(scaled, labels).mean()),
    }


def calibration_error(confidence: Array, correct: Array, *, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equally wide bins (Guo et al. 2017, equation 3)."""
    gaps = np.bincount(_bins(confidence, bins), weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(logits: Array, labels: Array, *, bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and rows of every bin of confidence that has any."""
    confidence, correct = softmax(logits).max(-1), logits.argmax(-1) == labels
    which = _bins(confidence, bins)
    return [
        (float(confidence[which == index].mean()), float(correct[which == index].mean()), int((which == index).sum()))
        for index in np.unique(which)
    ]


def confusion(logits: Array, labels: Array, classes: int) -> Array:
    """Rows of each gold class (first axis) that were given each class (C, C)."""
    return np.bincount(labels * classes + logits.argmax(-1), minlength=classes**2).reshape(classes, classes)


def counted(tables: Array, names: Sequence[str]) -> dict[str, Array]:
    """precision, recall and f1 of all decisions, the mean f1_macro of the classes, and all three of each class (R,).

    Args:
        tables: how many decisions for each class were right, were given, and are gold (R, 3, C).
    """
    right, given, gold = tables[:, 0], tables[:, 1], tables[:, 2]
    precision, recall, f1 = ratio(right, given), ratio(right, gold), ratio(2 * right, given + gold)
    return {
        "precision": ratio(right.sum(-1), given.sum(-1)),
        "recall": ratio(right.sum(-1), gold.sum(-1)),
        "f1": ratio(2 * right.sum(-1), (given + gold).sum(-1)),
        "f1_macro": f1.mean(-1) if len(names) else np.zeros(len(tables)),
        **{f"f1[{name}]": f1[:, index] for index, name in enumerate(names)},
        **{f"precision[{name}]": precision[:, index] for index, name in enumerate(names)},
        **{f"recall[{name}]": recall[:, index] for index, name in enumerate(names)},
    }


def drawn_rows(count: int, *, resamples: int, seed: int) -> Array:
    """How often each of `count` rows is drawn when as many are drawn with replacement (R, N)."""
    random = np.random.default_rng(seed)
    return np.stack([np.bincount(random.integers(count, size=count), minlength=count) for _ in range(resamples)])


def ensemble(logits: Sequence[Array], weights: Sequence[float]) -> Array:
    """The logarithm of the weighted mean of the probabilities; of a single model its own logits."""
    if len(logits) == 1:
        return logits[0]
    mean = np.average([softmax(values) for values in logits], axis=0, weights=weights)
    logits_of_mean: Array = np.log(mean.clip(LEAST)).astype(np.float32)
    return logits_of_mean


def best_order(logits: Array, labels: Array) -> tuple[list[int], float]:
    """The order of the classes under which the logits fit the labels best, and the accuracy then."""
    from scipy.optimize import linear_sum_assignment

    table = confusion(logits, labels, logits.shape[-1])
    gold, predicted = linear_sum_assignment(table, maximize=True)
    return predicted.tolist(), float(table[gold, predicted].sum() / len(labels))


def _of_tables(tables: Array, names: Sequence[str]) -> dict[str, Array]:
    """The metrics that a table of gold and predicted classes (R, C, C) gives, (R,) each."""
    total = tables.sum((1, 2))
    hits = np.diagonal(tables, axis1=1, axis2=2)  # (R, C)
    gold, predicted = tables.sum(2), tables.sum(1)
    present = (gold + predicted) > 0  # a class that was not drawn has no F1
    f1 = ratio(2 * hits, gold + predicted)
    covariance = hits.sum(-1) * total - (gold * predicted).sum(-1)  # Gorodkin 2004
    spread = np.sqrt((total**2 - (predicted**2).sum(-1)) * (total**2 - (gold**2).sum(-1)))
    precision, recall = ratio(hits, predicted), ratio(hits, gold)
    return {
        "accuracy": hits.sum(-1) / total,
        "f1_macro": f1.sum(-1) / present.sum(-1),
        "f1_weighted": (f1 * gold).sum(-1) / total,
        "mcc": ratio(covariance, spread),
        **{f"precision[{name}]": precision[:, index] for index, name in enumerate(names)},
        **{f"recall[{name}]": recall[:, index] for index, name in enumerate(names)},
    }


def ratio(above: Array, below: Array) -> Array:
    """0 where there is nothing to divide by, as scikit-learn has it."""
    result: Array = np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
    return result


def losses(probabilities: Array, labels: Array) -> Array:
    """Cross-entropy of each row (N,)."""
    values: Array = -np.log(probabilities[np.arange(len(labels)), labels].clip(LEAST))
    return values


def _brier_terms(probabilities: Array, labels: Array) -> Array:
    """Squared distance of the probabilities from the right answer, over all classes (Brier 1950) (N,)."""
    distance: Array = ((probabilities - np.eye(probabilities.shape[-1])[labels]) ** 2).sum(-1)
    return distance


def _bins(confidence: Array, bins: int) -> Array:
    which: Array = np.minimum((confidence * bins).astype(int), bins - 1)
    return which


def _temperature(logits: Array, labels: Array) -> float:
    """The T that makes softmax(logits / T) fit the labels best."""
    from scipy.optimize import minimize_scalar

    values = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(losses(softmax(values / np.exp(log_temperature)), labels).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))
