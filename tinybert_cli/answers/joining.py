"""Answers joined to the rows of the data, by an id or by the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinybert_cli.answers.base import EXAMPLES, Answer, quoted
from tinybert_cli.answers.files import AnswerFile
from tinybert_cli.config import Answers, Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_text, is_missing
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted, verb


@dataclass(frozen=True)
class Joined:
    """The answers to each row of each split."""

    answers: Mapping[str, list[list[Answer]]]  # split → (N,) lists
    by: str  # `text`, or the name of a column
    unknown: list[str] = field(default_factory=list)  # the key of each answer that belongs to no row


def join(file: AnswerFile, setting: Answers, splits: Mapping[str, Rows], settings: Data) -> Joined:
    """The answers to each row; rows with the same text have the same answers.

    Raises:
        InputError: a column is missing, two rows have one id, an id belongs to another text, or no answer has a row.
    """
    by_key: dict[Hashable, list[tuple[int, Answer]]] = {}
    keys: Sequence[Hashable]
    rows_keys: dict[str, Sequence[Hashable]]
    column = setting.answers_id_column_name or setting.id_column_name
    if setting.id_column_name is None or column is None:
        are_words = any(_hold_words(rows, settings) for rows in splits.values())
        keys = _texts(file.rows, file.text_columns, spaces=not are_words)
        rows_keys = {split: _texts(rows, settings.text_columns, spaces=not are_words) for split, rows in splits.items()}
    else:
        keys = _ids(file.rows, column, "answers_id_column_name")
        rows_keys = {split: _ids(rows, setting.id_column_name, "id_column_name") for split, rows in splits.items()}
        _check_ids(rows_keys, splits, settings)
    for index, answer in file.answers:
        by_key.setdefault(keys[index], []).append((index, answer))
    if setting.id_column_name is not None and file.text_columns:
        _check_texts(file, by_key, rows_keys, splits, settings)
    joined = {split: [[answer for _, answer in by_key.get(key, [])] for key in own] for split, own in rows_keys.items()}
    known = {key for own in rows_keys.values() for key in own}
    unknown = [_key_in_quotes(key) for key, own in by_key.items() if key not in known for _ in own]
    if by_key and not known & by_key.keys():
        example = _key_in_quotes(next(iter(next(iter(rows_keys.values())))))
        raise InputError(
            f"no answer belongs to a row of {', '.join(splits)}: the answers are for "
            f"{', '.join(list(dict.fromkeys(unknown))[:EXAMPLES])}, and the first row is {example}",
            where=setting.name,
            hint="check the texts, `splits`, and id_column_name below `teacher`",
        )
    return Joined(joined, setting.id_column_name or "text", unknown)


def _texts(rows: Rows, names: Sequence[str], *, spaces: bool = False) -> list[tuple[str, ...]]:
    """The texts of each row in composed Unicode, with single spaces or without any: a list of words has none."""
    columns = [rows.column(name) for name in names]
    return [tuple(_text(cell, spaces=spaces) for cell in cells) for cells in zip(*columns, strict=True)]


def _text(value: Any, *, spaces: bool) -> str:
    """A cell as text; null is an empty text, not the word None."""
    text = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return (" " if spaces else "").join(unicodedata.normalize("NFC", text).split())


def _hold_words(rows: Rows, settings: Data) -> bool:
    return any(isinstance(value, list) for name in settings.text_columns for value in rows.column(name)[:1])


def _ids(rows: Rows, name: str, key: str) -> list[Hashable]:
    values = rows.column(name)
    for index, value in enumerate(values):
        if is_missing(value) or isinstance(value, (list, dict)):
            raise InputError(
                f"'{name}': expected an id, found {value!r}",
                where=rows.location(index),
                hint=f"every row needs one; or leave `{key}` out, to join by the text",
            )
    return [as_text(value).strip() for value in values]


def _check_ids(keys: Mapping[str, Sequence[Hashable]], splits: Mapping[str, Rows], settings: Data) -> None:
    """An id names one row, or several with the same text."""
    first: dict[Hashable, tuple[str, Hashable]] = {}
    for split, rows in splits.items():
        for index, (key, text) in enumerate(zip(keys[split], _texts(rows, settings.text_columns), strict=True)):
            where, own = first.setdefault(key, (rows.location(index), text))
            if own != text:
                raise InputError(
                    f"two rows have the id {key}: {where}, and {rows.location(index)}",
                    where="teacher.id_column_name",
                    hint="join by a column that is different in every row, or by the text: leave id_column_name out",
                )


def _check_texts(
    file: AnswerFile,
    by_key: Mapping[Hashable, Sequence[tuple[int, Answer]]],
    keys: Mapping[str, Sequence[Hashable]],
    splits: Mapping[str, Rows],
    settings: Data,
) -> None:
    """An answer that repeats its text must be joined to a row with this text; an empty cell repeats none."""
    answered = _texts(file.rows, file.text_columns)
    wrong: list[tuple[str, str]] = []
    for split, rows in splits.items():
        texts = _texts(rows, settings.text_columns)
        wrong += [
            (answer.where, rows.location(row))
            for row, key in enumerate(keys[split])
            for index, answer in by_key.get(key, [])
            if any(answered[index]) and answered[index] != texts[row]
        ]
    if wrong:
        answer, row = wrong[0]
        raise InputError(
            f"{counted(len(wrong), 'answer')} {verb(len(wrong), 'has', 'have')} the id of a row with another text, for "
            f"example {answer}, and {row}",
            where=file.rows.origins[0][0],
            hint="correct the ids; or remove the text from the answers, if it is another one on purpose",
        )


def _key_in_quotes(key: Any) -> str:
    return quoted(" / ".join(key)) if isinstance(key, tuple) else quoted(key)
