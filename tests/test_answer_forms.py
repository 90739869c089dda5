"""Forms of answers that are easily mistaken for others: what is read, what is counted, and what is refused."""

from __future__ import annotations

from pathlib import Path

from answer_samples import NAMES, TEXTS, classes, probabilities, teacher_of

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
