"""Metrics: statistics per row, metrics from their sums, and everything that follows from these two."""

from tinybert_cli.metrics.base import Metric, Statistics, score
from tinybert_cli.metrics.bootstrap import resampled
from tinybert_cli.metrics.intervals import difference_interval, interval, intervals

__all__ = ["Metric", "Statistics", "difference_interval", "interval", "intervals", "resampled", "score"]
