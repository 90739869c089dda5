"""Files with answers: which column holds them, and what annotation tools write beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinybert_cli import data
from tinybert_cli.answers import json_texts, label_studio
from tinybert_cli.answers.base import Answer, confidence, is_empty
from tinybert_cli.config import Answers, Data
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.gold_answers import IMPOSSIBLE, is_impossible
from tinybert_cli.types import Rows

ANSWER = "answer"
TEXT = "text"  # the column of the text in most files, also beside a list of words
USUAL = ("label", "labels", "prediction", "response", "completion", "output", "spans", "entities", "tags", "ner_tags",
         "probabilities", "annotation")  # fmt: skip
_DECISIONS = {"accept", "reject", "ignore"}  # what Prodigy writes as `answer`
_PRODIGY = ("spans", "accept", "label")
_PRODIGY_OF_TEXTS = ("accept", "label", "spans")  # spans of a text with one label are the words that a pattern matched
_TASKS_WITH_SPANS = {"token-classification", "question-answering"}


@dataclass(frozen=True)
class AnswerFile:
    """The rows of the files with answers, and the answer in each."""

    rows: Rows
    answers: list[tuple[int, Answer]]  # the row of each answer; a row may have several, or none
    column: str  # that holds the answers
    text_columns: list[str]  # of the rows; empty if there are none
    skipped: int  # rows that an annotator rejected or ignored


def read_answers(setting: Answers, settings: Data, task: str) -> AnswerFile:
    """The answers in the files.

    Args:
        task: its name; of what an annotation tool writes, its answers are taken.

    Raises:
        InputError: a file is missing or cannot be read, or a column is missing or could be several.
    """
    rows = data.concatenate([_read(Path(name), settings) for name in setting.files])
    if not len(rows):
        raise InputError(f"no answers in {setting.name}", where="teacher.answers_file", hint="the file has no data")
    texts = _as_list(setting.text_column_names or settings.text_columns)
    if label_studio.is_export(rows):
        return _of_label_studio(label_studio.flattened(rows), texts, setting, settings, task)
    texts = _text_columns(rows, texts, setting, settings)
    known = {*texts, setting.id_column_name, setting.answers_id_column_name, setting.confidence_column_name}
    selected, skipped = rows, 0
    column = setting.answer_column_name
    if column is None and _is_prodigy(rows):
        order = _PRODIGY if task in _TASKS_WITH_SPANS else _PRODIGY_OF_TEXTS
        column = next(name for name in order if name in rows.columns)
        accepted = [index for index, decision in enumerate(rows.columns[ANSWER]) if decision == "accept"]
        selected, skipped = rows.select(accepted), len(rows) - len(accepted)
    flags = [IMPOSSIBLE] if task == "question-answering" and IMPOSSIBLE in rows.columns else []
    column = column or _answer_column(rows, {*flags, *(name for name in known if name is not None)})
    answers = list(_answers(selected, column, texts, setting))
    if flags:
        answers = [(index, _of_flag(answer, selected.columns[IMPOSSIBLE][index])) for index, answer in answers]
    return AnswerFile(
        selected, answers, column if isinstance(column, str) else ", ".join(column), texts, skipped
    )  # fmt: skip


def _read(path: Path, settings: Data) -> Rows:
    data.existing_file(path, "teacher.answers_file")
    rows = data.read_file(path, Data(delimiter=settings.delimiter, quoting=settings.quoting))
    return replace(rows, class_names={})


def _text_columns(rows: Rows, names: list[str], setting: Answers, settings: Data) -> list[str]:
    """The text columns that the answers have: those of the config, or `text` for the one of the data; none of them if
    the answers are joined by id."""
    present = [name for name in names if name in rows.columns and _is_text(rows.columns[name])]
    if setting.text_column_names is not None and len(present) < len(names):
        rows.column(next(name for name in names if name not in present))  # raises
    if setting.id_column_name is not None:
        return present if len(present) == len(names) else []
    if len(names) != len(settings.text_columns):
        raise InputError(
            f"`text_column_names` of the answers: {len(names)} names, and the data has {len(settings.text_columns)}",
            where="teacher.text_column_names",
            hint="one name for each, in the same order",
        )
    if len(present) == len(names):
        return names
    if len(names) == 1 and TEXT in rows.columns:
        return [TEXT]
    missing = next(name for name in names if name not in present)
    raise InputError(
        f"the answers have no column '{missing}', with which they would be joined to the rows",
        where=rows.origins[0][0],
        hint="set text_column_names or, to join by a column of the data, id_column_name below `teacher`; columns "
        f"here: {', '.join(rows.columns)}",
    )


def _is_text(column: Sequence[Any]) -> bool:
    """Whether a column has texts, or lists of words; Prodigy's `tokens` are mappings."""
    values = [value for value in column if value is not None]
    words = [value for value in values if isinstance(value, list)]
    if any(isinstance(value, dict) for value in values) or (values and len(words) == len(values) and not any(words)):
        return False
    return all(isinstance(item, str) for own in words for item in own)


def _answer_column(rows: Rows, known: set[str]) -> str:
    others = [name for name in rows.columns if name not in known]
    if ANSWER in others:
        return ANSWER
    usual = [name for name in others if name in USUAL]
    if len(others) == 1 or len(usual) == 1:
        return (usual or others)[0]
    raise InputError(
        "which column holds the answers is not clear" if others else "there is no column with answers",
        where=rows.origins[0][0],
        hint=f"set answer_column_name below `teacher`; columns here: {', '.join(rows.columns)}",
    )


def _answers(
    rows: Rows, column: str | Sequence[str], texts: Sequence[str], setting: Answers
) -> Iterator[tuple[int, Answer]]:
    names = _as_list(column)
    for name in [*names, *([setting.confidence_column_name] if setting.confidence_column_name else [])]:
        if name not in rows.columns:
            raise InputError(
                f"the answers have no column '{name}'",
                where=rows.origins[0][0],
                hint=rows.column_hint(name),
            )
    own_texts = _own_texts(rows, texts, names)
    confidences = rows.columns[setting.confidence_column_name] if setting.confidence_column_name else [None] * len(rows)
    for index in range(len(rows)):
        where = rows.location(index)
        value: Any = rows.columns[names[0]][index]
        if len(names) > 1:
            cells = {name: rows.columns[name][index] for name in names}
            value = None if all(map(is_empty, cells.values())) else cells
        yield index, Answer(json_texts.parsed(value), where, own_texts[index], confidence(confidences[index], where))


def _of_flag(answer: Answer, flag: Any) -> Answer:
    """No answer, if `is_impossible` beside it is true, as in gold answers; InputError if it is no boolean."""
    return replace(answer, value={IMPOSSIBLE: True}) if is_impossible(flag, answer.where) else answer


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _own_texts(rows: Rows, texts: Sequence[str], others: Sequence[str]) -> list[str | None]:
    """The text that stands beside each answer, in its text column or in `text`."""
    names = [name for name in dict.fromkeys([*(texts if len(texts) == 1 else []), TEXT]) if name not in others]
    columns = [rows.columns[name] for name in names if name in rows.columns]
    return [
        next((cell for column in columns if isinstance(cell := column[index], str)), None) for index in range(len(rows))
    ]


def _is_prodigy(rows: Rows) -> bool:
    decisions = rows.columns.get(ANSWER)
    return (
        decisions is not None
        and all(isinstance(one, str) and one in _DECISIONS for one in decisions)
        and any(name in rows.columns for name in _PRODIGY)
    )


def _of_label_studio(rows: Rows, texts: list[str], setting: Answers, settings: Data, task: str) -> AnswerFile:
    """The answers of each annotator of a task."""
    if setting.confidence_column_name is not None:
        raise InputError(
            "annotations of Label Studio have no confidence, so `confidence_column_name` has no effect",
            where="teacher.confidence_column_name",
            hint="leave it out",
        )
    texts = _text_columns(rows, texts, setting, settings)
    controls = [name for name in _as_list(setting.answer_column_name or []) if name != label_studio.ANNOTATIONS]
    annotations = label_studio.Annotations.read(rows, task, controls)
    own_texts = _own_texts(rows, texts, ())
    answers, skipped = [], 0
    for index in range(len(rows)):
        where, values = rows.location(index), annotations.answers(index)
        skipped += not values
        for number, value in enumerate(values, 1):
            own = f"{where}, annotation {number}" if len(values) > 1 else where
            answers.append((index, Answer(value, own, own_texts[index])))
    column = ", ".join(controls) or label_studio.ANNOTATIONS
    return AnswerFile(rows, answers, column, texts, skipped)
