"""Scores of very many rows: statistics in mapped files, names as indices, and memory that does not grow with the rows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from test_slices import peak_bytes

from tinybert_cli import metrics, scratch_files
from tinybert_cli.metrics import bootstrap, one_hot, probabilities, slices
from tinybert_cli.metrics.calibration import temperature_scaling
from tinybert_cli.metrics.class_values import ClassValues
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.comparison import confusion_matrix
from tinybert_cli.types import Array, Predictions

NAMES = ["a", "b", "c"]


def evaluation(rows: int) -> tuple[ClassificationMetric, Predictions]:
    random = np.random.default_rng(0)
    labels, logits = random.integers(3, size=rows), scratch_files.empty((rows, 3), np.float32)
    logits[...] = random.normal(size=logits.shape)
    (confidences,) = probabilities.in_parts(lambda part: (probabilities.softmax(part).max(-1),), logits)
    return ClassificationMetric(labels, NAMES), Predictions(["a"] * rows, confidences, logits)


def scores(rows: int) -> list[Any]:
    """All that `eval` computes from the statistics of a model."""
    metric, predictions = evaluation(rows)
    statistics = metric.statistics(predictions)
    resampled = metrics.resampled(metric, predictions, statistics, resamples=5, seed=1)
    parts = slices.slices(np.arange(rows), metric.label_slices(), predictions.confidences, {})
    return [
        metrics.score(metric, predictions, statistics),
        {name: values.tolist() for name, values in resampled.items()},
        slices.slice_scores(metric, statistics, parts, "accuracy"),
        {name: metrics.interval(metric, statistics, name, resampled) for name in resampled},
        temperature_scaling(*metric.class_logits(predictions)),
        confusion_matrix(*metric.class_logits(predictions)).tolist(),
        metric.row_scores(statistics).tolist(),
    ]


def test_scores_from_files_and_in_parts_are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = scores(200)
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 0)
    monkeypatch.setattr(one_hot, "FEW", 0)
    monkeypatch.setattr(one_hot, "PART", 7)
    assert scores(200) == in_memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_statistics_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    scores(20)  # imports what it needs, whose pages would count as well
    rows, statistic = 500_000, 8 * 500_000  # bytes of one
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(scratch_files, "RESIDENT", statistic)
    monkeypatch.setattr(one_hot, "FEW", 0)
    metric, predictions = evaluation(rows)
    release = scratch_files._release_pages
    release()
    before = scratch_files._mapped_bytes()
    resident: list[int] = []

    def watched() -> None:
        resident.append(scratch_files._mapped_bytes() - before)
        release()

    monkeypatch.setattr(scratch_files, "_least", before)
    monkeypatch.setattr(scratch_files, "_release_pages", watched)
    statistics = metric.statistics(predictions)
    metrics.score(metric, predictions, statistics)
    metrics.resampled(metric, predictions, statistics, resamples=3, seed=1)
    temperature_scaling(*metric.class_logits(predictions))
    watched()
    assert len(resident) > 8 and max(resident) < 3 * statistic  # without releasing pages: 10 times as much


@pytest.mark.parametrize("kind", [np.int8, np.float64])
@pytest.mark.parametrize("few", [0, 100])
def test_sums_of_one_number_per_row_are_those_of_scipy(few: int, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    monkeypatch.setattr(one_hot, "FEW", few)
    monkeypatch.setattr(one_hot, "PART", 2)
    columns, values = random.integers(4, size=50), (10 * random.normal(size=50)).astype(kind)
    counts = random.integers(3, size=(2, 50)).astype(np.float64)
    own = one_hot.one_hot(columns, 4, values)
    other = csr_array((values, columns, np.arange(51)), shape=(50, 4))
    assert own.shape == other.shape and own.columns.nbytes == 50
    np.testing.assert_array_equal(own.sparse.toarray(), other.toarray())
    np.testing.assert_array_equal(counts @ own, counts @ other)
    np.testing.assert_array_equal(own.sum(axis=0), other.sum(axis=0))
    np.testing.assert_array_equal(own.sum(axis=1), other.sum(axis=1))
    np.testing.assert_array_equal(own.column(2), other.toarray()[:, 2])
    assert (counts @ own).dtype == own.sum(axis=0).dtype == (np.int64 if kind is np.int8 else np.float64)


def test_rows_drawn_in_parts_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = bootstrap._drawn_counts(1000, resamples=3, seed=0)
    monkeypatch.setattr(bootstrap, "DRAWN", 300)
    (in_parts,) = bootstrap._drawn_counts(1000, resamples=3, seed=0)
    np.testing.assert_array_equal(in_parts, whole)


def test_ones_take_no_memory() -> None:
    assert one_hot.one_hot(np.zeros(9, dtype=np.int64), 300).columns.dtype == np.uint16
    assert one_hot.one_hot(np.zeros(9, dtype=np.int64), 3).values.strides == (0,)


def test_only_one_table_of_drawn_rows_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    metric, predictions = evaluation(50)
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 1)
    make, alive, most = bootstrap._table, [0], [0]

    class Table(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            if self.base is None or not isinstance(self.base, Table):
                alive[0] -= 1

    def table(*arguments: Any) -> Array:
        most[0] = max(most[0], alive[0])
        alive[0] += 1
        return make(*arguments).view(Table)

    monkeypatch.setattr(bootstrap, "_table", table)
    statistics = {"rows": np.ones((50, 1))}
    monkeypatch.setattr(ClassificationMetric, "from_sums", lambda self, sums: {"rows": np.array([1.0])})
    metrics.resampled(metric, predictions, statistics, resamples=4, seed=0)
    assert most[0] == 0


def test_class_values_read_like_a_list() -> None:
    names = [NAMES[index] for index in [2, 0, 0, 1]]
    values = ClassValues(np.array([2, 0, 0, 1]), NAMES)
    assert values == names and names == values and list(values) == names and values != names[:3]
    assert values[1:3] == ["a", "a"] and values[-1] == "b" and len(values) == 4
    assert repr(values) == f"ClassValues({names})"


def test_slices_by_value_have_no_copy_of_the_texts() -> None:
    values = ClassValues(np.arange(300_000) % 3, NAMES)
    assert peak_bytes(lambda: slices.by_value(values)) < 2 * 8 * 300_000  # two lists of them
