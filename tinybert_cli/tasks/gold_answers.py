"""Gold answers of question answering: the forms in which datasets store them, and what they say about "no answer"."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted

IMPOSSIBLE = "is_impossible"  # the column of SQuAD 2.0 that marks questions without an answer
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FORM = '{"text": [...], "answer_start": [...]}'


@dataclass(frozen=True)
class GoldAnswer:
    """A span of the context, without white space around it."""

    text: str
    begin: int

    @property
    def span(self) -> tuple[int, int]:
        return self.begin, self.begin + len(self.text)


def gold_answers(rows: Rows, data: Data, contexts: Sequence[str]) -> Iterator[list[GoldAnswer] | None] | None:
    """The gold answers of each row: an empty list if the context has no answer, None in a row without a label.

    None if there is no column with answers. The rows are read one after the other.

    A row has no answer if `is_impossible` is true, whatever `answers` holds, or if all its answers are empty texts. The
    first answer has to be where `answer_start` says: training uses it, and metrics use only the texts of the others.

    Raises:
        InputError: answers in no known form, that contradict `is_impossible`, or not at `answer_start`.
    """
    if data.label_column not in rows.columns:
        return None
    return _each(rows, data, contexts)


def _each(rows: Rows, data: Data, contexts: Sequence[str]) -> Iterator[list[GoldAnswer] | None]:
    flags = rows.columns.get(IMPOSSIBLE) or itertools.repeat(None, len(rows))
    columns = zip(rows.column(data.label_column), flags, contexts, strict=True)
    for index, (value, flag, context) in enumerate(columns):
        where = rows.location(index)
        impossible = is_impossible(flag, where)
        if impossible:
            yield []
            continue
        answers = None if value is None else _answers(value, where)
        if answers == [] and impossible is False:
            raise InputError(
                f"`{IMPOSSIBLE}` is false, but the row has no answer",
                where=where,
                hint=f"set {IMPOSSIBLE} to true for a question without an answer, or add its answer",
            )
        if answers:
            _check_position(answers[0], context, where)
        yield answers


def statements(rows: Rows, data: Data, contexts: Sequence[str]) -> list[str]:
    """How many rows have no answer for another reason than an empty list of answers, in sentences."""
    gold = gold_answers(rows, data, contexts)
    if gold is None:
        return []
    impossible = rows.columns.get(IMPOSSIBLE, [None] * len(rows))
    plausible = empty = 0
    for index, (value, answers) in enumerate(zip(rows.column(data.label_column), gold, strict=True)):
        if answers == [] and _holds_answers(value):
            marked = is_impossible(impossible[index], rows.location(index))
            plausible, empty = plausible + bool(marked), empty + (not marked)
    result = []
    if plausible:
        result.append(f"`{IMPOSSIBLE}` is true in {counted(plausible, 'row')} with answers: these have no answer")
    if empty:
        result.append(f"{counted(empty, 'row')} with empty answers {'has' if empty == 1 else 'have'} no answer")
    return result


def _holds_answers(value: Any) -> bool:
    try:
        return bool(_pairs(_parsed(value), value, ""))
    except InputError:  # of a row with `is_impossible`, whose answers are not read
        return False


def _answers(value: Any, where: str) -> list[GoldAnswer]:
    """The answers in one cell; an empty list for none, and for empty texts only."""
    pairs = _pairs(_parsed(value), value, where)
    empty = [not text.strip() for text, _ in pairs]
    if all(empty):
        return []
    if any(empty):
        raise InputError(f"some of the answers are empty: {_shortened(value)}", where=where, hint="remove them")
    return [GoldAnswer(text.strip(), begin + len(text) - len(text.lstrip())) for text, begin in pairs]


def _pairs(parsed: Any, value: Any, where: str) -> list[tuple[str, int]]:
    """(text, answer_start) of each answer: from a dict of lists, a dict of one answer, or a list of such."""
    try:
        if isinstance(parsed, list):
            return [(_text(answer["text"]), _number(answer["answer_start"])) for answer in parsed]
        texts, begins = parsed["text"], parsed["answer_start"]
        if isinstance(texts, str):
            texts, begins = [texts], [begins]
        return [(_text(text), _number(begin)) for text, begin in zip(texts, begins, strict=True)]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"expected answers, found {_shortened(value)}", where=where, hint=_FORM) from error


def _parsed(value: Any) -> Any:
    """The cell of a CSV file as JSON, or as Python writes a dict; other values as they are."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError
    return int(value)


def is_impossible(value: Any, where: str) -> bool | None:
    """What a cell of the column `is_impossible` says; None where it is empty."""
    if value is None or value == "":
        return None
    truth = _TRUTH.get(str(value).strip().lower().removesuffix(".0"))
    if truth is None:
        raise InputError(f"`{IMPOSSIBLE}`: expected true or false, found {value!r}", where=where)
    return truth


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _check_position(answer: GoldAnswer, context: str, where: str) -> None:
    begin, end = answer.span
    if begin >= 0 and context[begin:end] == answer.text:
        return
    first = context.find(answer.text)
    hint = "the context does not contain this text" if first < 0 else f"the text is at character {first}"
    raise InputError(
        f"the answer {answer.text!r} is not at character {begin} of its context",
        where=where,
        hint=f"{hint}; answer_start counts characters from 0",
    )
