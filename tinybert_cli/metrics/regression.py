"""Metrics of regression: one number per row.

Shapes: N rows, R sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, Sums, column, ratio
from tinybert_cli.types import Array, Predictions

CLEARLY, CHANCE = 0.1, 0.001  # share of the variance, and p-value, from which numbers follow others


@dataclass(frozen=True)
class RegressionMetric(Metric):
    """Pearson's and Spearman's correlation, R², mean absolute error, and mean squared error as `loss`."""

    labels: Array  # (N,)

    @property
    def references(self) -> list[float]:
        values: list[float] = self.labels.tolist()
        return values

    def statistics(self, predictions: Predictions) -> Statistics:
        """Both sides are centred at their medians: sums of squares lose no digits, even with outliers."""
        gold, predicted = self.labels.astype(np.float64), _values(predictions).astype(np.float64)
        x, y, error = predicted - np.median(predicted), gold - np.median(gold), predicted - gold
        return {
            "rows": np.ones((len(gold), 1)),
            "x": column(x),
            "y": column(y),
            "xx": column(x * x),
            "yy": column(y * y),
            "xy": column(x * y),
            "absolute_error": column(np.abs(error)),
            "squared_error": column(error**2),
            "nearness": column(self._nearness(predictions)),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows, x, y, xx, yy, xy = (sums[name][:, 0] for name in ("rows", "x", "y", "xx", "yy", "xy"))
        varies_x, varies_y = _without_noise(xx - x**2 / rows, xx), _without_noise(yy - y**2 / rows, yy)
        squared = sums["squared_error"][:, 0]
        return {
            "pearson": ratio(xy - x * y / rows, np.sqrt(varies_x * varies_y)),
            "r2": np.where(varies_y > 0, 1 - ratio(squared, varies_y), 0.0),
            "mae": sums["absolute_error"][:, 0] / rows,
            "loss": squared / rows,
            "nearness": sums["nearness"][:, 0] / rows,
        }

    def rank_metrics(self, predictions: Predictions) -> dict[str, float]:
        return {"spearman": _spearman(_values(predictions), self.labels)}

    def resampled_rank_metrics(self, predictions: Predictions, counts: Array) -> dict[str, Array]:
        predicted = _values(predictions)
        drawn = [np.repeat(np.arange(len(predicted)), times.astype(int)) for times in counts]
        return {"spearman": np.array([_spearman(predicted[rows], self.labels[rows]) for rows in drawn])}

    def undefined(self, predictions: Predictions) -> dict[str, str]:
        if np.ptp(self.labels) == 0:
            return dict.fromkeys(("pearson", "spearman", "r2"), "all labels are equal")
        constant = np.ptp(_values(predictions)) == 0
        return dict.fromkeys(("pearson", "spearman"), "all predictions are equal") if constant else {}

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        return (statistics[name][:, 0], statistics["rows"][:, 0]) if name == "nearness" else None

    def row_scores(self, statistics: Statistics) -> Array:
        """1 for the gold number itself, 0 where the error is as large as the range of all labels, or larger (N,)."""
        return np.asarray(statistics["nearness"][:, 0])

    def paired_test(self, statistics: Statistics, reference: Statistics) -> dict[str, float]:
        """Rows on which one of the two has the larger error, and Wilcoxon's signed-rank test of the differences."""
        from scipy.stats import wilcoxon

        errors, reference_errors = (
            values["absolute_error"][:, 0].astype(np.float32) for values in (statistics, reference)
        )
        worse = errors - reference_errors
        p = float(wilcoxon(worse).pvalue) if worse.any() else 1.0
        return {"rows_lost": int((worse > 0).sum()), "rows_won": int((worse < 0).sum()), "wilcoxon_p": p}

    def label_slices(self) -> dict[str, Array]:
        low, high = np.quantile(self.labels, [1 / 3, 2 / 3])
        return {
            "low": self.labels <= low,
            "middle": (self.labels > low) & (self.labels <= high),
            "high": self.labels > high,
        }

    def majority_baseline(self) -> float:
        """A constant correlates with nothing."""
        return 0.0

    def _nearness(self, predictions: Predictions) -> Array:
        label_range = max(float(np.ptp(self.labels)), 1e-12)
        nearness: Array = 1 - np.abs(_values(predictions) - self.labels) / label_range
        return nearness.clip(0, 1)


def pearson(one: Array, other: Array) -> float:
    """Pearson's correlation; 0 if either does not vary."""
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def concordance(one: Array, other: Array) -> float:
    """Lin's concordance correlation: as `pearson`, but a shift and another scale lower it, too (Lin 1989).

    1 for equal numbers.
    """
    a, b = one - one.mean(), other - other.mean()
    total = float((a**2).mean() + (b**2).mean() + (one.mean() - other.mean()) ** 2)
    return float(2 * (a * b).mean() / total) if total > 0 else 1.0


def other_scale(numbers: Array, gold: Array) -> tuple[float, float] | None:
    """Slope and intercept of the line from numbers to gold numbers, if they clearly follow these on another scale.

    None if they are nearer to them than their mean is, or do not follow them.
    """
    from scipy.stats import linregress

    numbers, gold = numbers.astype(np.float64), gold.astype(np.float64)
    if np.ptp(numbers) == 0 or np.ptp(gold) == 0 or ((numbers - gold) ** 2).mean() < gold.var():
        return None
    fit = linregress(numbers, gold)
    follows = fit.rvalue**2 >= CLEARLY and fit.pvalue < CHANCE
    return (float(fit.slope), float(fit.intercept)) if follows else None


def _spearman(one: Array, other: Array) -> float:
    from scipy.stats import rankdata

    return pearson(rankdata(one), rankdata(other))


def _without_noise(variation: Array, squares: Array) -> Array:
    """A sum of squared deviations, 0 where only rounding is left of it."""
    return np.where(variation > 1e-12 * squares, variation, 0.0)


def _values(predictions: Predictions) -> Array:
    return predictions.known_logits[:, 0]
