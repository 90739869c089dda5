"""The one interface of all metrics: statistics of each row, and metrics as functions of their sums (as in sacreBLEU).

Scores, bootstrap intervals, paired differences, slices and the metric in training are all computed from sums of
statistics, so they are implemented once, for every metric.

Shapes: N rows, K numbers of one statistic, R sums: 1 for a score, else one per resample or slice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.metrics.comparison import mcnemar
from tinybert_cli.metrics.one_hot import OneHot
from tinybert_cli.scratch_files import bound_mapped_memory
from tinybert_cli.types import Array, Layout, Predictions

Statistics = Mapping[str, Any]  # name → (N, K), a NumPy array, a sparse one of SciPy, or `OneHot`
Sums = Mapping[str, Array]  # name → (R, K)


class Metric(ABC):
    """Scores predictions for N rows against their references."""

    biased: ClassVar[frozenset[str]] = frozenset()  # metrics that resampling makes larger, so that they get no interval

    best_values: ClassVar[Mapping[str, float]] = {}  # of metrics that are not on the scale of 0 to 1

    unbounded: ClassVar[frozenset[str]] = frozenset({"loss", "mae"})  # metrics without a largest value

    @property
    @abstractmethod
    def references(self) -> Sequence[Any]:
        """The gold value of each row (N,), of the same kind as `Predictions.values`."""

    @abstractmethod
    def statistics(self, predictions: Predictions) -> Statistics:
        """The numbers of each row that `from_sums` adds up."""

    @abstractmethod
    def from_sums(self, sums: Sums) -> dict[str, Array]:
        """metric → (R,), from the sums of the statistics over R sets of rows."""

    @abstractmethod
    def row_scores(self, statistics: Statistics) -> Array:
        """The score of each row (N,), 1 at best."""

    @abstractmethod
    def label_slices(self) -> dict[str, Array]:
        """Slices by the reference: name → which rows (N,)."""

    @abstractmethod
    def majority_baseline(self) -> float:
        """The main metric of the best constant prediction."""

    def correct(self, statistics: Statistics) -> Array:
        """Which rows (N,) count as right in a paired test."""
        right: Array = self.row_scores(statistics) == 1
        return right

    def description(self) -> dict[str, Any]:
        """How the metrics are computed, for the manifest and metrics.json; empty if their names tell."""
        return {}

    def paired_test(self, statistics: Statistics, reference: Statistics) -> dict[str, float]:
        """`rows_lost` and `rows_won` against the reference model, and the p-value of a paired test."""
        return mcnemar(self.correct(statistics), self.correct(reference))

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        """Hits and counts of each row (N,) if the metric is the ratio of their sums, 0 <= hits <= counts; else None."""
        return None

    def undefined(self, predictions: Predictions) -> dict[str, str]:
        """metric → why it is not defined for these predictions, although `from_sums` has a value by convention."""
        return {}

    def rank_metrics(self, predictions: Predictions) -> dict[str, float]:
        """Metrics that depend on the order of all rows, so that they are no functions of sums."""
        return {}

    def resampled_rank_metrics(self, predictions: Predictions, counts: Array) -> dict[str, Array]:
        """The rank metrics that get an interval: metric → (R,), for rows drawn `counts` (R, N) times."""
        return {}

    def tune_thresholds(self, logits: Array, layout: Layout | None = None) -> dict[str, Any]:
        """Settings for config.json (`Task.tuned_settings`) with which these logits (P, C) score best."""
        return {}

    def class_logits(self, predictions: Predictions) -> tuple[Array, Array] | None:
        """Logits (D, C) and gold class indices (D,) of D decisions between C classes; None without classes."""
        return None

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array] | None:
        """Confidence of each decision (D,), and whether it is correct (D,); None without confidences."""
        return None


def score(metric: Metric, predictions: Predictions, statistics: Statistics | None = None) -> dict[str, float]:
    """Every metric of the predictions.

    Args:
        statistics: of these predictions, if they have been computed already.
    """
    statistics = metric.statistics(predictions) if statistics is None else statistics
    sums = {name: _sums(values) for name, values in statistics.items()}
    metrics = {name: float(values[0]) for name, values in metric.from_sums(sums).items()}
    return metrics | metric.rank_metrics(predictions)


def weighted_sums(statistics: Statistics, counts: Array) -> Sums:
    """The sums of the statistics over rows that occur `counts` (R, N) times."""
    sums = {}
    for name, values in statistics.items():
        sums[name] = np.asarray(counts @ values)
        bound_mapped_memory()
    return sums


def _sums(values: Any) -> Array:
    sums = np.asarray(values.sum(axis=0)).reshape(1, -1)
    bound_mapped_memory()
    return sums


def column(values: Any) -> Array:
    """(N,) → (N, 1), in float64."""
    return np.asarray(values, dtype=np.float64)[:, None]


def of_column(values: Any, index: int) -> Array:
    """One column (N,) of a statistic (N, K)."""
    if isinstance(values, OneHot):
        return values.column(index)
    unit = np.zeros(values.shape[1])
    unit[index] = 1
    return np.asarray(values @ unit)


def total(values: Any) -> Array:
    """The sum over the columns (N,) of a statistic (N, K)."""
    if isinstance(values, np.ndarray) and values.shape[1] == 1:
        return values[:, 0]  # a view: the rows of millions would be 8 bytes each
    return np.asarray(values.sum(axis=1)).ravel()


def ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element; 0 where the denominator is 0, as in scikit-learn."""
    result: Array = np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
    return result
