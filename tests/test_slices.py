"""Slices and regressions name the rows that they are about."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybert_cli.metrics import slices as slicing


def kinds(labels: str) -> dict[str, np.ndarray[Any, Any]]:
    return {label: np.array([other == label for other in labels]) for label in sorted(set(labels))}


def slices(**columns: list[object]) -> dict[str, list[int]]:
    found = slicing.slices(np.array([3, 9, 5, 30, 12, 4]), kinds("abaabb"), [0.9, 0.6, 0.8, 0.5, 0.7, 0.99], columns)
    return {name: np.flatnonzero(rows).tolist() for name, rows in found.items()}


def test_rows_are_cut_by_length_label_and_confidence() -> None:
    assert slices() == {
        "length=low": [0, 5], "length=middle": [1, 2], "length=high": [3, 4],
        "label=a": [0, 2, 3], "label=b": [1, 4, 5],
        "confidence=low": [1, 3], "confidence=middle": [2, 4], "confidence=high": [0, 5],
    }  # fmt: skip


def test_a_column_is_cut_by_its_values() -> None:
    found = slices(source=["blog", "shop", "blog", "blog", None, "shop"])
    assert found["source=blog"] == [0, 2, 3] and found["source=None"] == [4]


def test_rare_names_are_one_slice_and_many_numbers_are_cut_in_three() -> None:
    many = list(range(60))
    found = slicing.slices(
        np.arange(60), kinds("a" * 60), [0.5] * 60, {"stars": many, "user": [f"u{i}" for i in many[:30]] + ["x"] * 30}
    )
    assert [name for name in found if name.startswith("stars")] == ["stars=low", "stars=middle", "stars=high"]
    assert found["user=x"].sum() == 30 and found["user=other"].sum() == 30 - (slicing.MANY - 1)


def test_slices_without_rows_are_left_out() -> None:
    found = slicing.slices(np.array([7, 7, 7]), kinds("aaa"), [0.5] * 3, {})
    assert list(found) == ["length=low", "label=a", "confidence=low"]


def test_regressions_are_the_rows_that_the_reference_gets_right_the_surest_mistake_first() -> None:
    rows = {"text": ["t0", "t1", "t2", "t3"], "label": ["a", "a", "b", "b"]}
    said = {
        "teacher": {"prediction": ["a", "a", "b", "a"], "confidence": [0.9, 0.8, 0.7, 0.6]},
        "student": {"prediction": ["b", "a", "a", "a"], "confidence": [0.6, 0.9, 0.95, 0.9]},
    }
    credits = {"teacher": np.array([1, 1, 1, 0]), "student": np.array([0, 1, 0, 0])}
    assert slicing.regressions(rows, said, credits, "teacher") == {
        "model": ["student", "student"], "row": [2, 0], "text": ["t2", "t0"], "label": ["b", "a"],
        "prediction": ["a", "b"], "confidence": [0.95, 0.6],
    }  # fmt: skip


def test_of_partly_right_answers_the_one_that_lost_most_comes_first() -> None:
    rows = {"text": ["t0", "t1", "t2"], "label": [1.0, 2.0, 3.0]}
    said = {"teacher": {"prediction": [1.0, 2.0, 3.0]}, "student": {"prediction": [1.2, 2.0, 4.0]}}
    credits = {"teacher": np.array([1.0, 1.0, 1.0]), "student": np.array([0.8, 1.0, 0.1])}
    assert slicing.regressions(rows, said, credits, "teacher")["row"] == [2, 0]


def test_without_confidence_there_are_no_slices_by_it() -> None:
    assert not any(name.startswith("confidence") for name in slicing.slices(np.arange(3), kinds("aab"), None, {}))


def test_of_many_labels_the_rarer_ones_are_one_slice() -> None:
    labels = "".join(chr(97 + index % 25) for index in range(60))
    found = slicing.slices(np.arange(60), kinds(labels), None, {})
    assert sum(name.startswith("label=") for name in found) == slicing.MANY + 1
    assert sum(int(rows.sum()) for name, rows in found.items() if name.startswith("label=")) == 60
