"""95 % intervals: Wilson's for proportions, the bootstrap's for all other metrics.

Where every row is right the bootstrap has no width, and near 0 and 1 it covers too rarely: experiments/coverage.py
measures it.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics
from tinybert_cli.metrics.bootstrap import resampled
from tinybert_cli.metrics.proportions import Interval, paired_difference, wilson
from tinybert_cli.types import Array, Predictions


def intervals(
    metric: Metric,
    predictions: Predictions,
    statistics: Statistics,
    names: Iterable[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """metric → its 95 % interval, for those of `names` that have one."""
    names = list(names)
    values = resampled(metric, predictions, statistics, resamples=resamples, seed=seed, names=names)
    ends = {name: interval(metric, statistics, name, values) for name in names}
    return {name: pair for name, pair in ends.items() if pair is not None}


def interval(
    metric: Metric, statistics: Statistics, name: str, resampled_values: Mapping[str, Array]
) -> Interval | None:
    """The 95 % interval of one metric; None if it has not been resampled, or is undefined.

    A metric that is 0 or 1 in every resample gets Wilson's interval with one trial per row: the decisions of one row
    are not independent. For F1 and correlations this is an approximation; errors without a largest value have none.
    """
    values = resampled_values.get(name)
    if values is None:
        return None
    share = metric.proportion(name, statistics)
    rows = _row_count(statistics)
    if share is not None:
        hits, counts = share
        if not counts.any():
            return None
        if _is_binary(hits) and _is_binary(counts):
            return wilson(float(hits.sum()), float(counts.sum()))
        rows = int((counts > 0).sum())
    if np.ptp(values) > 0:
        return _percentiles(values)
    highest = metric.best_values.get(name, 1.0)
    if name in metric.unbounded or values[0] not in (0, highest):
        return None
    low, high = wilson(rows * float(values[0]) / highest, rows)
    return highest * low, highest * high


def difference_interval(
    metric: Metric, statistics: Statistics, reference: Statistics, name: str, differences: Array
) -> Interval | None:
    """The 95 % interval of the difference of one metric to a reference model on the same rows, None as in `interval`.

    Args:
        differences: in each resample (R,).
    """
    share, reference_share = metric.proportion(name, statistics), metric.proportion(name, reference)
    rows = _row_count(statistics)
    if share is not None and reference_share is not None and np.array_equal(share[1], reference_share[1]):
        (hits, counts), (reference_hits, _) = share, reference_share
        if not counts.any():
            return None
        if _is_binary(hits) and _is_binary(counts) and _is_binary(reference_hits):
            won, lost = float((hits > reference_hits).sum()), float((hits < reference_hits).sum())
            return paired_difference(won, lost, float(counts.sum()))
        rows = int((counts > 0).sum())
    if np.ptp(differences) > 0:
        return _percentiles(differences)
    if name in metric.unbounded or differences[0] != 0:
        return None
    highest = metric.best_values.get(name, 1.0)
    low, high = paired_difference(0, 0, rows)
    return highest * low, highest * high


def _row_count(statistics: Statistics) -> int:
    return int(next(iter(statistics.values())).shape[0])


def _percentiles(values: Array) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _is_binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())
