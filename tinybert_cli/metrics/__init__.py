"""Metrics: statistics per row, metrics from their sums, and everything that follows from these two."""

from tinybert_cli.metrics.base import Metric, Statistics, score
from tinybert_cli.metrics.bootstrap import interval, intervals, resampled

__all__ = ["Metric", "Statistics", "interval", "intervals", "resampled", "score"]
