"""Forms of answers that are easily mistaken for others: what is read, what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from answer_samples import NAMES, TEXTS, classes, probabilities, teacher_of

from tinybert_cli.answers import AnswerTeacher

# -- counts --------------------------------------------------------------------------------------------------


def test_an_answer_to_several_rows_is_counted_once(tmp_path: Path) -> None:
    answers = [{"text": "bad", "answer": "hm"}, {"text": "ok", "answer": "positive"}]
    teacher = teacher_of(tmp_path, answers, {"text": ["bad", "bad", "bad", "ok", "ok"]})
    (warning,) = teacher.warnings()
    assert "1 of 2 answers could not be understood" in warning and teacher.not_understood == 1
    assert teacher.facts()["kinds"] == {"unmapped": 1, "label": 1}


def test_an_answer_with_several_votes_is_counted_once(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [["hm", "so so", "positive"], "positive"], votes=True)
    assert teacher.not_understood == 1 and teacher.facts()["kinds"]["label"] == 2
    assert probabilities(teacher) == [[0, 1], [0, 1], None]


def test_rows_with_a_tie_are_counted_row_by_row(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": NAMES}]
    teacher = teacher_of(tmp_path, answers, {"text": [*TEXTS, "one"]}, votes=True)
    assert teacher.tally.counts["ties"] == 2 and teacher.tally.counts["votes"] == 1


# -- numbers -------------------------------------------------------------------------------------------------


def numbers(teacher: AnswerTeacher) -> list[float | None]:
    labels = teacher.labels["train"]
    return [
        round(float(value), 6) if answered else None
        for value, answered in zip(labels.logits[:, 0], labels.answered, strict=True)
    ]


def numbers_in_csv(folder: Path, values: Sequence[str], **setting: Any) -> list[float | None]:
    texts = [f"text {index}" for index in range(len(values))]
    lines = "".join(f'{text},"{value}"\n' for text, value in zip(texts, values, strict=True))
    own = teacher_of(
        folder, f"text,answer\n{lines}", {"text": texts}, task="regression", names=["score"], file="llm.csv", **setting
    )
    return numbers(own)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 0.001),
        ("1e-05", 0.00001),
        (".5", 0.5),
        ("5.", 5.0),
        (" +2 ", 2.0),
        ("3,5", 3.5),
        ("0,125", 0.125),
        ("Score: 1e-3", 0.001),
        ("Score: .5", 0.5),
        ("Score: 3,5.", 3.5),
        ("1,250", None),  # a thousand, or one and a quarter
        ("1,234.5", None),
        ("3 - 4", None),
        ("4/5", None),
        pytest.param("9" * 400, None, id="400 digits"),
        ("1e39", None),  # more than float32 can hold
    ],
)
def test_numbers_are_read_as_those_of_gold_labels(tmp_path: Path, text: str, number: float | None) -> None:
    assert numbers_in_csv(tmp_path, ["1", "-2.5", text]) == [1, -2.5, number]


def test_a_file_may_prove_the_decimal_comma(tmp_path: Path) -> None:
    assert numbers_in_csv(tmp_path, ["3,5", "1,250", "Score: 2,750"]) == [3.5, 1.25, 2.75]


def test_the_plan_has_the_decimal_comma(tmp_path: Path) -> None:
    teacher = classes(tmp_path, ["3,5"], task="regression", names=["score"])
    assert "a comma is the decimal point, such as 3,5 is 3.5" in teacher.statements()[0]


@pytest.mark.parametrize(
    "value", [pytest.param(10**400, id="400 digits"), {"score": 3}, [[1, 2]], True, [None], [], {}, [{"a": 1}]]
)
def test_values_that_are_no_number_are_counted(tmp_path: Path, value: Any) -> None:
    teacher = classes(tmp_path, [1, value], task="regression", names=["score"])
    assert numbers(teacher) == [1, None, None] and teacher.not_understood == 1
