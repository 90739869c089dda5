"""The bootstrap: every metric on rows drawn with replacement, from sums of their statistics.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, weighted_sums
from tinybert_cli.types import Array, Predictions

MOST_COUNTS = 2**22  # numbers in the table of drawn rows that is in memory at once
DRAWN = 2**20  # rows that are drawn at a time
TABLES = 4  # of sums, for each table of drawn rows


def resampled(
    metric: Metric,
    predictions: Predictions,
    statistics: Statistics,
    *,
    resamples: int,
    seed: int,
    names: Iterable[str] | None = None,
) -> dict[str, Array]:
    """metric → its values on `resamples` bootstrap samples (R,), except for `Metric.biased`.

    The same seed draws the same rows, so the difference between the values of two models is a paired one.

    Args:
        names: the metrics to return; None = all. With very many classes, those of single classes fill the memory.
    """
    selected = None if names is None else set(names)
    widest = max((values.shape[-1] for values in statistics.values()), default=1)

    def values_of(counts: Array) -> dict[str, Array]:
        values = metric.from_sums(weighted_sums(statistics, counts))
        values |= metric.resampled_rank_metrics(predictions, counts)
        values = {name: one for name, one in values.items() if name not in metric.biased}
        return {name: one.copy() for name, one in values.items() if selected is None or name in selected}

    tables = _drawn_counts(len(predictions), resamples=resamples, seed=seed, columns=TABLES * widest)
    parts = list(map(values_of, tables))  # a loop would hold each table until it has the next
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _drawn_counts(rows: int, *, resamples: int, seed: int, columns: int = 1) -> Iterator[Array]:
    """How often each row is drawn when as many are drawn with replacement: (R, N) in chunks.

    Args:
        columns: numbers that are computed from each resample; R x columns of them are in memory at once.
    """
    random = np.random.default_rng(seed)
    chunk = max(1, MOST_COUNTS // max(1, rows, columns))
    for begin in range(0, resamples, chunk):
        yield _table(random, min(chunk, resamples - begin), rows)


def _table(random: np.random.Generator, resamples: int, rows: int) -> Array:
    counts = np.zeros((resamples, rows))
    for count in counts:
        for first in range(0, rows, DRAWN):
            drawn = random.integers(rows, size=min(DRAWN, rows - first))
            if rows > DRAWN:  # added to the table: counts of all rows for each part would take as much memory
                np.add.at(count, drawn, 1.0)
            else:
                count += np.bincount(drawn, minlength=rows)
    return counts
