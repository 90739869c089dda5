"""Numbers in sentences: one thing has another verb than several."""

from __future__ import annotations

import pytest

from tinybert_cli.config import Data
from tinybert_cli.data.splits import rows_warnings
from tinybert_cli.tasks.label_names import name_warnings
from tinybert_cli.wording import counted, verb


@pytest.mark.parametrize(("count", "sentence"), [(0, "0 rows have"), (1, "1 row has"), (2000, "2,000 rows have")])
def test_noun_and_verb_agree_with_the_number(count: int, sentence: str) -> None:
    assert f"{counted(count, 'row')} {verb(count, 'has', 'have')}" == sentence


def test_warnings_about_one_row_are_in_the_singular() -> None:
    data = Data(train_file="train.csv", max_seq_length=16)
    messages = [event["message"] for event in rows_warnings("train", 4, 1, 1, [3], data)]
    assert messages == [
        "1 of 4 rows of train (25.0%) is longer than 16 tokens and was truncated",
        "1 row of train has no text (row 3)",
    ]
    messages = [event["message"] for event in rows_warnings("train", 4, 2, 2, [3, 4], data)]
    assert messages == [
        "2 of 4 rows of train (50.0%) are longer than 16 tokens and were truncated",
        "2 rows of train have no text (row 3, 4)",
    ]


def test_one_class_without_rows_does_not_occur() -> None:
    assert name_warnings({"a": 3, "b": 0}) == ["1 of 2 classes does not occur: b"]
