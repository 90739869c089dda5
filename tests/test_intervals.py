"""Intervals: proportions near 0 and 1, paired differences, undefined metrics, and their coverage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Configs, run
from scipy.stats import binomtest

from tinybert_cli import artifacts, metrics
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.entities import TaggingMetric
from tinybert_cli.metrics.multi_label import MultiLabelMetric
from tinybert_cli.metrics.proportions import paired_difference, wilson
from tinybert_cli.metrics.regression import RegressionMetric
from tinybert_cli.types import Array, Predictions


def scored(metric: metrics.Metric, logits: Array, rows: int, resamples: int = 100) -> tuple[Any, dict[str, Array]]:
    predictions = Predictions([None] * rows, None, logits)
    statistics = metric.statistics(predictions)
    return statistics, metrics.resampled(metric, predictions, statistics, resamples=resamples, seed=0)


def classification(right: Sequence[bool]) -> tuple[ClassificationMetric, Array]:
    labels = np.arange(len(right)) % 2
    return ClassificationMetric(labels, ["a", "b"]), np.eye(2)[np.where(right, labels, 1 - labels)]


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (19, 20), (1, 1), (0, 1), (430, 872)])
def test_wilson_interval_equals_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("right", [[True] * 20, [False] * 20, [True] * 19 + [False]])
def test_accuracy_has_the_interval_of_wilson(right: list[bool]) -> None:
    metric, logits = classification(right)
    statistics, values = scored(metric, logits, 20)
    expected = binomtest(sum(right), 20).proportion_ci(method="wilson")
    for name, count, hits in (("accuracy", 20, sum(right)), ("recall[a]", 10, sum(right[::2]))):
        low, high = metrics.interval(metric, statistics, name, values)  # type: ignore[misc]
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_perfect_f1_macro_and_mcc_have_the_interval_of_the_rows() -> None:
    metric, logits = classification([True] * 20)
    statistics, values = scored(metric, logits, 20)
    for name in ("f1_macro", "mcc"):
        assert metrics.interval(metric, statistics, name, values) == pytest.approx(wilson(20, 20))
    metric, logits = classification([True] * 19 + [False])
    statistics, values = scored(metric, logits, 20)
    expected = np.percentile(values["f1_macro"], [2.5, 97.5])
    assert metrics.interval(metric, statistics, "f1_macro", values) == pytest.approx(tuple(expected))


def test_calibration_error_has_no_interval() -> None:
    metric, logits = classification([True] * 10 + [False] * 10)
    statistics, values = scored(metric, logits, 20)
    assert "ece" not in values and metrics.interval(metric, statistics, "ece", values) is None


def test_interval_of_perfect_tags_counts_each_row_once() -> None:
    names, rows = ["O", "B-PER"], 20
    metric = TaggingMetric(np.arange(100) % 2, np.arange(0, 101, 5), names)
    statistics, values = scored(metric, np.eye(2)[np.arange(100) % 2], rows)
    for name in ("word_accuracy", "f1", "precision", "recall", "f1[PER]"):
        assert metrics.interval(metric, statistics, name, values) == pytest.approx(wilson(20, 20))


def test_interval_of_perfect_labels_has_a_width() -> None:
    labels = (np.arange(60).reshape(20, 3) % 2).astype(np.float32)
    metric = MultiLabelMetric(labels, ["a", "b", "c"])
    statistics, values = scored(metric, labels * 2 - 1, 20)
    for name in ("accuracy", "f1_micro", "hamming_loss", "recall[b]"):
        low, high = metrics.interval(metric, statistics, name, values)  # type: ignore[misc]
        assert high - low > 0.1


def test_difference_of_two_perfect_models_has_a_width() -> None:
    metric, logits = classification([True] * 20)
    statistics, values = scored(metric, logits, 20)
    differences = values["accuracy"] - values["accuracy"]
    low, high = metrics.difference_interval(metric, statistics, statistics, "accuracy", differences)  # type: ignore[misc]
    assert low == -high and 0.05 < high < 0.2
    assert metrics.difference_interval(metric, statistics, statistics, "f1_macro", differences) == (low, high)


def test_errors_that_never_vary_have_no_interval() -> None:
    """A share of rows would say nothing about an error in the unit of the numbers."""
    gold = np.arange(20.0)
    metric = RegressionMetric(gold)
    off_by_one = Predictions(list(gold + 1), logits=(gold + 1)[:, None])
    statistics = metric.statistics(off_by_one)
    names = ("mae", "loss", "pearson")
    found = metrics.intervals(metric, off_by_one, statistics, names, resamples=20, seed=0)
    assert found.keys() == {"pearson"}  # mae and loss are 1 in every resample
    same = np.zeros(20)
    differences = {name: metrics.difference_interval(metric, statistics, statistics, name, same) for name in names}
    assert differences["mae"] is differences["loss"] is None and differences["pearson"] is not None


def test_difference_interval_contains_the_difference() -> None:
    right = np.random.default_rng(0).random((2, 300)) < [[0.9], [0.8]]
    (metric, logits), (_, other) = classification(right[0]), classification(right[1])
    (one, values), (two, reference) = scored(metric, logits, 300), scored(metric, other, 300)
    differences = values["accuracy"] - reference["accuracy"]
    low, high = metrics.difference_interval(metric, one, two, "accuracy", differences)  # type: ignore[misc]
    assert low < right[0].mean() - right[1].mean() < high
    assert (low, high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=0.02)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("rows", [20, 200])
def test_intervals_contain_the_true_share_in_95_percent(rows: int, share: float) -> None:
    random = np.random.default_rng(0)
    ends = [wilson(hits, rows) for hits in random.binomial(rows, share, size=1000)]
    assert np.mean([low <= share <= high for low, high in ends]) >= 0.92


@pytest.mark.parametrize(("won", "lost"), [(0.05, 0.05), (0.03, 0.01), (0.2, 0.1)])
@pytest.mark.parametrize("rows", [20, 200])
def test_intervals_contain_the_true_difference_in_95_percent(rows: int, won: float, lost: float) -> None:
    random = np.random.default_rng(0)
    counts = random.multinomial(rows, [won, lost, 1 - won - lost], size=1000)
    ends = [paired_difference(k, m, rows) for k, m, _ in counts]
    assert np.mean([low <= won - lost <= high for low, high in ends]) >= 0.93


def test_undefined_correlations_are_named_with_the_reason() -> None:
    one = np.ones((5, 1))
    varying = np.arange(5.0)[:, None]
    predictions, constant = Predictions([0] * 5, None, varying), Predictions([0] * 5, None, one)
    assert RegressionMetric(np.arange(5.0)).undefined(constant).keys() == {"pearson", "spearman"}
    assert RegressionMetric(np.ones(5)).undefined(predictions).keys() == {"pearson", "spearman", "r2"}
    assert RegressionMetric(np.arange(5.0)).undefined(predictions) == {}


# -- eval ----------------------------------------------------------------------------------------------------


def test_eval_has_intervals_of_accuracy_difference_and_agreement(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    models = {"one": str(teacher), "two": str(teacher)}
    run("eval", configs("eval", "out", models=models, data__max_eval_samples=20, latency=None))
    numbers = artifacts.read_metrics(tmp_path / "out")
    rows = 20
    for name in ("one.accuracy", "two.agreement"):
        ends = wilson(round(rows * numbers[name]), rows)
        assert (numbers[f"{name}_low"], numbers[f"{name}_high"]) == pytest.approx(ends)
    assert numbers["two.accuracy_difference_low"] < 0 < numbers["two.accuracy_difference_high"]
    assert not any(name.startswith(("one.ece_low", "two.ece_difference_low")) for name in numbers)


def test_eval_leaves_out_undefined_numbers_and_says_so(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    models = {"one": str(teacher), "two": str(teacher)}
    rows = run("eval", configs("eval", "out", models=models, data__max_eval_samples=1, latency=None))
    numbers = artifacts.read_metrics(tmp_path / "out")
    assert "one.mcc" not in numbers and "two.mcc_difference" not in numbers and "one.accuracy_low" in numbers
    messages = [row["message"] for row in rows if row["event"] == "warning"]
    assert "one: mcc left out, because all labels are equal" in messages
