"""Answers, written to a file and read as the labels of a few rows; for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import write_rows

from tinybert_cli import tasks
from tinybert_cli.answers import AnswerTeacher, read_teacher
from tinybert_cli.config import Answers, Data
from tinybert_cli.metrics.probabilities import softmax
from tinybert_cli.types import Rows

NAMES = ["negative", "positive"]
TEXTS = ["one", "two", "three"]
TAGS = ["O", "B-LOC", "B-PER", "I-PER"]
WORDS = [["Ada", "Lovelace", "lived", "in", "London", "."], ["Paul", "'s", "😀", "saw", "Rome"], ["Nothing", "here"]]
QUESTION = ["Who?", "When?", "Why?"]
CONTEXT = ["It was written by Ada in 1843, and Ada  Lovelace died in 1852."] * 3


def rows_of(columns: Mapping[str, Sequence[Any]]) -> Rows:
    values = {name: list(column) for name, column in columns.items()}
    return Rows(values, (("train.jsonl", len(next(iter(values.values())))),))


def teacher_of(
    folder: Path,
    answers: list[dict[str, Any]] | str,
    columns: Mapping[str, Sequence[Any]],
    *,
    task: str = "text-classification",
    names: Sequence[str] = NAMES,
    file: str = "llm.jsonl",
    data: Mapping[str, Any] | None = None,
    **setting: Any,
) -> AnswerTeacher:
    """The answers, written to a file, to one split of rows."""
    path = folder / file
    if isinstance(answers, str):
        path.write_text(answers, encoding="utf-8")
    else:
        write_rows(path, answers)
    texts = {"question-answering": ["question", "context"], "token-classification": "tokens"}.get(task, "text")
    settings = Data.model_validate({"text_column_names": texts, **(data or {})})
    own = Answers.model_validate({"answers_file": str(path), **setting})
    return read_teacher(own, tasks.find_prediction_task(task), {"train": rows_of(columns)}, names, settings)


def classes(folder: Path, values: Sequence[Any], **setting: Any) -> AnswerTeacher:
    """Answers to the first texts of TEXTS."""
    answers = [{"text": text, "answer": value} for text, value in zip(TEXTS, values, strict=False)]
    return teacher_of(folder, answers, {"text": TEXTS}, **setting)


def probabilities(teacher: AnswerTeacher) -> list[list[float] | None]:
    """Of each row, rounded; None without a label."""
    labels = teacher.labels["train"]
    return [
        row if answered else None
        for row, answered in zip(softmax(labels.logits).round(3).tolist(), labels.answered, strict=True)
    ]


def tags(teacher: AnswerTeacher) -> list[list[str] | None]:
    labels = teacher.labels["train"]
    assert labels.layout is not None
    return [
        [TAGS[index] for index in labels.logits[begin:end].argmax(-1)] if answered else None
        for (begin, end), answered in zip(labels.layout.ranges(), labels.answered, strict=True)
    ]


def spans(teacher: AnswerTeacher) -> list[dict[str, float] | None]:
    """Of each row its answers with their probabilities, "" for no answer."""
    labels = teacher.labels["train"]
    assert labels.layout is not None and labels.layout.token_spans is not None
    result: list[dict[str, float] | None] = []
    for row, (begin, end) in enumerate(labels.layout.ranges()):
        pairs = zip(labels.layout.token_spans[begin:end, 1:], np.exp(labels.logits[begin:end, 0]), strict=True)
        own = {CONTEXT[row][max(0, b) : max(0, e)] + f"@{b}": round(float(p), 3) for (b, e), p in pairs if p > 1e-6}
        result.append(own if labels.answered[row] else None)
    return result


def qa(folder: Path, values: Sequence[Any], **setting: Any) -> AnswerTeacher:
    answers = [{"id": index, "answer": value} for index, value in enumerate(values)]
    columns = {"id": [0, 1, 2], "question": QUESTION, "context": CONTEXT}
    return teacher_of(
        folder, answers, columns, task="question-answering", names=["begin", "end"], id_column_name="id", **setting
    )
