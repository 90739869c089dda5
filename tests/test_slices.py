"""Slices are subsets of the rows; regressions are the rows on which a model scores less than the reference."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tinybert_cli.metrics import slices as module
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.entities import TaggingMetric
from tinybert_cli.metrics.multi_label import MultiLabelMetric
from tinybert_cli.metrics.slices import MOST_VALUES, by_value, most_frequent, regressions, slice_scores, slices
from tinybert_cli.types import Array, Layout, Predictions


def masks(labels: str) -> dict[str, Array]:
    return {label: np.array([other == label for other in labels]) for label in sorted(set(labels))}


def rows_of_slices(**columns: list[object]) -> dict[str, list[int]]:
    confidences = np.array([0.9, 0.6, 0.8, 0.5, 0.7, 0.99])
    result = slices(np.array([3, 9, 5, 30, 12, 4]), masks("abaabb"), confidences, columns)
    return {name: np.flatnonzero(rows).tolist() for name, rows in result.items()}


def label_slices(labels: Sequence[str]) -> dict[str, Array]:
    names = sorted(set(labels))
    return ClassificationMetric(np.array([names.index(label) for label in labels]), names).label_slices()


# -- slices --------------------------------------------------------------------------------------------------


def test_slices_by_length_label_and_confidence() -> None:
    assert rows_of_slices() == {
        "length=low": [0, 5], "length=middle": [1, 2], "length=high": [3, 4],
        "label=a": [0, 2, 3], "label=b": [1, 4, 5],
        "confidence=low": [1, 3], "confidence=middle": [2, 4], "confidence=high": [0, 5],
    }  # fmt: skip


def test_column_has_a_slice_per_value() -> None:
    result = rows_of_slices(source=["blog", "shop", "blog", "blog", None, "shop"])
    assert result["source=blog"] == [0, 2, 3] and result["source=None"] == [4]


def test_rare_names_are_one_slice_and_many_numbers_are_thirds() -> None:
    many = list(range(60))
    columns = {"stars": many, "user": [f"u{i}" for i in many[:30]] + ["x"] * 30}
    result = slices(np.arange(60), masks("a" * 60), np.full(60, 0.5), columns)
    assert [name for name in result if name.startswith("stars")] == ["stars=low", "stars=middle", "stars=high"]
    assert result["user=x"].sum() == 30 and result["user=other"].sum() == 30 - (MOST_VALUES - 1)


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_many_numbers_with_gaps_are_thirds_and_a_slice_without_a_number(gap: float | None) -> None:
    numbers = [*map(float, range(30)), gap]
    result = slices(np.arange(31), {}, None, {"size": numbers})
    rows = {name: np.flatnonzero(mask).tolist() for name, mask in result.items() if name.startswith("size=")}
    thirds = {"low": [*range(10)], "middle": [*range(10, 20)], "high": [*range(20, 30)], "none": [30]}
    assert rows == {f"size={name}": own for name, own in thirds.items()}


def test_empty_slices_are_omitted() -> None:
    result = slices(np.array([7, 7, 7]), masks("aaa"), np.full(3, 0.5), {})
    assert list(result) == ["length=low", "label=a", "confidence=low"]


def test_no_confidence_slices_without_confidences() -> None:
    assert not any(name.startswith("confidence") for name in slices(np.arange(3), masks("aab"), None, {}))


def test_rare_labels_are_one_slice() -> None:
    labels = [chr(97 + index % 25) for index in range(60)]
    result = slices(np.arange(60), label_slices(labels), None, {})
    assert sum(name.startswith("label=") for name in result) == MOST_VALUES + 1
    assert sum(int(rows.sum()) for name, rows in result.items() if name.startswith("label=")) == 60


def test_selected_values_are_the_most_frequent_ties_by_name() -> None:
    frequent = [f"v{index:02}" for index in range(MOST_VALUES - 2)]  # 3 rows each
    values = [*frequent * 3, *["d", "c", "b", "a"] * 2, "single"]  # two of a, b, c, d have room
    draw = np.random.default_rng(0)
    result = by_value([values[index] for index in draw.permutation(len(values))])
    assert list(result) == [*sorted([*frequent, "a", "b"]), "other"]
    assert {name: int(rows.sum()) for name, rows in result.items()} == {
        **dict.fromkeys(frequent, 3), "a": 2, "b": 2, "other": 5,
    }  # fmt: skip


def test_selection_does_not_depend_on_the_order_of_the_counts() -> None:
    counts = {f"v{index}": index % 3 for index in range(40)}
    backwards = dict(reversed(counts.items()))
    first, second = (list(most_frequent(own, lambda name: np.zeros(1, dtype=bool))) for own in (counts, backwards))
    assert first == second and len(first) == MOST_VALUES + 1


def test_at_most_20_names_are_all_selected_and_nothing_is_other() -> None:
    values = [f"v{index:02}" for index in range(MOST_VALUES)]
    assert list(by_value(values)) == values


@pytest.mark.parametrize("values", [["x", "y" * 5000], ["x", "x\0"]])
def test_values_of_any_length_have_separate_slices(values: list[str]) -> None:
    assert {name: np.flatnonzero(rows).tolist() for name, rows in by_value(values).items()} == {
        value: [index] for index, value in enumerate(values)
    }


# -- many distinct values ------------------------------------------------------------------------------------


@pytest.fixture
def mask_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names for which a mask over all rows was computed."""
    calls: list[str] = []

    def counted(counts: Mapping[str, int], rows_of: Callable[[str], Array]) -> dict[str, Array]:
        def rows_of_name(name: str) -> Array:
            calls.append(name)
            return rows_of(name)

        return most_frequent(counts, rows_of_name)

    monkeypatch.setattr(module, "most_frequent", counted)
    monkeypatch.setattr("tinybert_cli.metrics.entities.most_frequent", counted)
    monkeypatch.setattr("tinybert_cli.metrics.multi_label.most_frequent", counted)
    return calls


def peak_bytes(function: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_100_000_distinct_values_need_20_masks_and_little_memory(mask_calls: list[str]) -> None:
    rows = 100_000
    values = [f"user {index}" for index in range(rows - 100)] + ["frequent"] * 100
    result: dict[str, Array] = {}
    peak = peak_bytes(lambda: result.update(slices(np.arange(rows), {}, None, {"user": values})))
    assert len(mask_calls) == MOST_VALUES and len(result) == 3 + MOST_VALUES + 1
    assert result["user=frequent"].sum() == 100
    assert result["user=other"].sum() == rows - 100 - (MOST_VALUES - 1)
    assert peak < 64e6  # one mask per value would be 10 GB


def test_one_long_value_does_not_widen_all_values() -> None:
    values = [f"v{index}" for index in range(20_000)] + ["x" * 20_000]
    assert peak_bytes(lambda: by_value(values)) < 32e6  # as a fixed-width array: 1.6 GB


def test_many_entity_types_need_20_masks(mask_calls: list[str]) -> None:
    types = [f"T{index:04}" for index in range(3000)]
    names = ["O", *(f"B-{name}" for name in types)]
    metric = TaggingMetric(np.arange(1, 3001), np.arange(3001), names)
    assert len(metric.gold) == 3000
    result: dict[str, Array] = {}
    peak = peak_bytes(lambda: result.update(metric.label_slices()))
    assert list(result) == [*types[:MOST_VALUES], "other"]
    assert len(mask_calls) == MOST_VALUES and result["other"].sum() == 2980
    assert peak < 4e6  # one mask per type: 9 MB


def test_rows_without_entities_are_the_slice_none() -> None:
    metric = TaggingMetric(np.array([1, 0, 2, 1]), np.array([0, 2, 2, 4]), ["O", "B-LOC", "B-PER"])
    assert {name: rows.tolist() for name, rows in metric.label_slices().items()} == {
        "LOC": [True, False, True], "PER": [False, False, True], "none": [False, True, False],
    }  # fmt: skip


def test_many_classes_need_20_masks(mask_calls: list[str]) -> None:
    result = MultiLabelMetric(np.eye(300), [f"c{index:03}" for index in range(300)]).label_slices()
    assert len(mask_calls) == MOST_VALUES and result["other"].sum() == 280


# -- scores of slices ----------------------------------------------------------------------------------------


def test_slice_score_is_the_metric_on_its_rows() -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(3, size=50), random.normal(size=(50, 3))
    names, chosen = ["a", "b", "c"], {"x": random.random(50) < 0.4, "y": random.random(50) < 0.4}
    metric = ClassificationMetric(labels, names)
    statistics = metric.statistics(Predictions([], None, logits))
    correct = logits.argmax(-1) == labels
    expected = {name: correct[rows].mean() for name, rows in chosen.items()}
    assert slice_scores(metric, statistics, chosen, "accuracy") == pytest.approx(expected)
    assert slice_scores(metric, statistics, {}, "accuracy") == {}


def test_word_accuracy_of_a_slice_counts_its_words_not_its_rows() -> None:
    metric = TaggingMetric(np.array([0, 0, 0, 0, 0]), np.array([0, 1, 5]), ["O", "B-PER"])
    logits = np.eye(2)[[0, 1, 1, 1, 0]]  # right: 1 of 1 word, 1 of 4 words
    statistics = metric.statistics(Predictions([], None, logits, Layout(metric.row_offsets)))
    scores = slice_scores(metric, statistics, {"all": np.array([True, True])}, "word_accuracy")
    assert scores == pytest.approx({"all": 2 / 5})  # the mean over the rows would be 0.625
    assert metric.row_scores(statistics).tolist() == [1.0, 0.25]


# -- regressions ---------------------------------------------------------------------------------------------


def test_regressions_are_sorted_by_loss_then_by_confidence() -> None:
    rows = {"text": ["t0", "t1", "t2", "t3"], "label": ["a", "a", "b", "b"]}
    predictions = {
        "teacher": Predictions(["a", "a", "b", "a"], np.array([0.9, 0.8, 0.7, 0.6])),
        "student": Predictions(["b", "a", "a", "a"], np.array([0.6, 0.9, 0.95, 0.9])),
    }
    row_scores = {"teacher": np.array([1, 1, 1, 0]), "student": np.array([0, 1, 0, 0])}
    assert regressions(rows, predictions, row_scores, "teacher") == {
        "model": ["student", "student"], "row": [2, 0], "text": ["t2", "t0"], "label": ["b", "a"],
        "prediction": ["a", "b"], "confidence": [0.95, 0.6],
    }  # fmt: skip


def test_regression_with_the_largest_loss_of_score_comes_first() -> None:
    rows = {"text": ["t0", "t1", "t2"], "label": [1.0, 2.0, 3.0]}
    predictions = {"teacher": Predictions([1.0, 2.0, 3.0]), "student": Predictions([1.2, 2.0, 4.0])}
    row_scores = {"teacher": np.array([1.0, 1.0, 1.0]), "student": np.array([0.8, 1.0, 0.1])}
    assert regressions(rows, predictions, row_scores, "teacher")["row"] == [2, 0]


def test_a_value_called_other_keeps_a_slice_of_its_own() -> None:
    values = ["other"] * 50 + [f"value {index}" for index in range(30)]
    rows = module.by_value(values)
    assert rows["other"].sum() == 50 and rows["other values"].sum() == 30 - (module.MOST_VALUES - 1)


def test_a_class_called_none_does_not_hide_rows_without_labels() -> None:
    metric = MultiLabelMetric(np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32), ["none", "b"])
    rows = {name: mask.tolist() for name, mask in metric.label_slices().items()}
    assert rows == {"none": [True, False, False], "b": [False, False, True], "no label": [False, True, False]}


def test_an_entity_type_called_none_does_not_hide_rows_without_entities() -> None:
    metric = TaggingMetric(np.array([1, 0]), np.array([0, 1, 2]), ["O", "B-none"])
    rows = {name: mask.tolist() for name, mask in metric.label_slices().items()}
    assert rows == {"none": [True, False], "no label": [False, True]}
