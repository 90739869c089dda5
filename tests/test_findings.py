"""Slices and regressions name the rows that they are about."""

from __future__ import annotations

import numpy as np

from tinybert_cli.stages import findings


def slices(**columns: list[object]) -> dict[str, list[int]]:
    found = findings.slices(
        np.array([3, 9, 5, 30, 12, 4]), ["a", "b", "a", "a", "b", "b"], [0.9, 0.6, 0.8, 0.5, 0.7, 0.99], columns
    )
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
    found = findings.slices(
        np.arange(60), ["a"] * 60, [0.5] * 60, {"stars": many, "user": [f"u{i}" for i in many[:30]] + ["x"] * 30}
    )
    assert [name for name in found if name.startswith("stars")] == ["stars=low", "stars=middle", "stars=high"]
    assert found["user=x"].sum() == 30 and found["user=other"].sum() == 30 - (findings.MANY - 1)


def test_slices_without_rows_are_left_out() -> None:
    found = findings.slices(np.array([7, 7, 7]), ["a"] * 3, [0.5] * 3, {})
    assert list(found) == ["length=low", "label=a", "confidence=low"]


def test_regressions_are_the_rows_that_the_reference_gets_right_the_surest_mistake_first() -> None:
    rows = {"text": ["t0", "t1", "t2", "t3"], "label": ["a", "a", "b", "b"]}
    said = {
        "teacher": {"prediction": ["a", "a", "b", "a"], "confidence": [0.9, 0.8, 0.7, 0.6]},
        "student": {"prediction": ["b", "a", "a", "a"], "confidence": [0.6, 0.9, 0.95, 0.9]},
    }
    assert findings.regressions(rows, said, "teacher") == {
        "model": ["student", "student"], "row": [2, 0], "text": ["t2", "t0"], "label": ["b", "a"],
        "prediction": ["a", "b"], "confidence": [0.95, 0.6],
    }  # fmt: skip
