"""A part of the encoded rows is what encoding these rows alone gives: labelling encodes each text once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_base_model

from tinybert_cli import tasks
from tinybert_cli.config import Data
from tinybert_cli.models import load_tokenizer, locate
from tinybert_cli.types import Encoded, Rows

WORDS = ["the", "film", "was", "very", "good", "but", "not", "too", "long", "and", "it", "made", "me", "smile"]
LENGTHS = (3, 0, 40, 1, 0, 0, 25, 7)  # words of each row: some need several windows, some have no text


def rows_of(columns: dict[str, list[Any]]) -> Rows:
    return Rows(columns, (("rows.jsonl", len(LENGTHS)),))


TEXTS = [[WORDS[index % len(WORDS)] for index in range(length)] for length in LENGTHS]
ROWS: dict[str, tuple[Rows, dict[str, Any]]] = {
    "text-classification": (rows_of({"text": [" ".join(words) for words in TEXTS]}), {}),
    "token-classification": (
        rows_of({"tokens": TEXTS}), {"text_column_names": "tokens", "label_column_name": "tags", "doc_stride": 4}
    ),
    "question-answering": (
        rows_of({"question": ["was it good"] * len(LENGTHS), "context": [" ".join(words) for words in TEXTS]}),
        {"text_column_names": ["question", "context"], "label_column_name": "answers", "doc_stride": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("begin", "end"), [(0, 8), (0, 2), (1, 2), (1, 3), (2, 5), (3, 8), (4, 6), (6, 7)])
def test_part_is_what_encoding_these_rows_gives(name: str, begin: int, end: int, tmp_path: Path) -> None:
    write_base_model(tmp_path)
    tokenizer, task = load_tokenizer(locate(str(tmp_path))), tasks.find_prediction_task(name)
    rows, settings = ROWS[name]
    data = Data(max_seq_length=16, **settings)
    part = task.encode(rows, data, tokenizer).part(begin, end)
    alone = task.encode(rows.select(range(begin, end)), data, tokenizer)
    assert part is not None
    for field in fields(Encoded):
        if field.name not in ("truncated", "empty"):
            assert_same(getattr(part, field.name), getattr(alone, field.name), field.name)


def assert_same(one: Any, other: Any, name: str) -> None:
    if name == "tokens":
        assert one.keys() == other.keys()
        for key, (values, padding) in one.items():
            np.testing.assert_array_equal(values, other[key][0], err_msg=key)
            assert padding == other[key][1]
    elif name == "layout" and one is not None:
        np.testing.assert_array_equal(one.row_offsets, other.row_offsets)
        if one.token_spans is not None:
            np.testing.assert_array_equal(one.token_spans, other.token_spans)
    elif one is None or other is None:
        assert one is other, name
    else:
        np.testing.assert_array_equal(one, other, err_msg=name)
