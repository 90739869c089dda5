"""The one interface of all metrics: statistics of each row, and metrics as functions of their sums (as in sacreBLEU).

Scores, bootstrap intervals, paired differences, slices and the metric in training are all computed from sums of
statistics, so they are implemented once, for every metric.

Shapes: N rows, K numbers of one statistic, R sums: 1 for a score, else one per resample or slice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.metrics.comparison import mcnemar
from tinybert_cli.scratch_files import empty
from tinybert_cli.types import Array, Layout, Predictions

Statistics = Mapping[str, Any]  # name → (N, K), a NumPy array or a sparse one of SciPy
Sums = Mapping[str, Array]  # name → (R, K)


class Metric(ABC):
    """Scores predictions for N rows against their references."""

    biased: ClassVar[frozenset[str]] = frozenset()  # metrics that resampling makes larger, so that they get no interval

    best_values: ClassVar[Mapping[str, float]] = {}  # of metrics that are not on the scale of 0 to 1

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
    sums = {name: np.asarray(values.sum(axis=0)).reshape(1, -1) for name, values in statistics.items()}
    metrics = {name: float(values[0]) for name, values in metric.from_sums(sums).items()}
    return metrics | metric.rank_metrics(predictions)


def one_hot(indices: Array, size: int, values: Array | None = None) -> Any:
    """(N, size), sparse: one number per row, 1 or that of `values` (N,), in the column `indices` (N,).

    Whole numbers take one byte, the indices 4 bytes each: with 8 bytes each, millions of rows fill the memory.
    """
    from scipy.sparse import csr_array

    numbers = np.ones(len(indices), dtype=np.int8) if values is None else values
    numbers = _stored(numbers, np.int8 if numbers.dtype.kind in "bi" else np.float64)
    return csr_array((numbers, _stored(indices, np.int32), _one_each(len(indices))), shape=(len(indices), size))


def _stored(values: Array, dtype: Any) -> Array:
    result = empty(values.shape, dtype)
    result[...] = values
    return result


@lru_cache(maxsize=1)
def _one_each(rows: int) -> Array:
    """Where the numbers of each row begin, if there is one in each (N + 1,): the same array for all statistics."""
    return _stored(np.arange(rows + 1, dtype=np.int32), np.int32)


def column(values: Any) -> Array:
    """(N,) → (N, 1), in float64."""
    return np.asarray(values, dtype=np.float64)[:, None]


def of_column(values: Any, index: int) -> Array:
    """One column (N,) of a statistic (N, K), which may be sparse."""
    unit = np.zeros(values.shape[1])
    unit[index] = 1
    return np.asarray(values @ unit)


def total(values: Any) -> Array:
    """The sum over the columns (N,) of a statistic (N, K), which may be sparse."""
    return np.asarray(values.sum(axis=1)).ravel()


def ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element; 0 where the denominator is 0, as in scikit-learn."""
    result: Array = np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
    return result
