"""What the columns of a file hold: texts, classes, numbers, dates, ids, lists, answers. Each has a phrase for messages.

A column that names its rows (`id`), or has another value in every row, is an id: it is never taken for a label.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from tinybert_cli.label_values import as_boolean, as_text, in_quotes, is_missing
from tinybert_cli.metrics.answer_texts import CJK
from tinybert_cli.tasks.label_lists import is_list_text
from tinybert_cli.types import Rows

Kind = Literal[
    "empty", "constant", "id", "date", "link", "boolean", "number", "amount", "text", "list", "answers", "mapping"
]

FEW = 20  # different whole numbers that are classes in any file
MOST_WORDS = 6  # of a class name, on average
LISTED = 5  # values in a phrase

_DATE = re.compile(r"(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d{1,2}/\d{1,2})([T ]\d{1,2}:\d{2}.*)?")
_LINK = re.compile(r"https?://\S+|[\w.+-]+@[\w-]+(\.[\w-]+)+")
_AMOUNT = re.compile(r"([A-Z]{3}|[$€£¥])?\s?[+-]?\d[\d.,' ]*\s?(%|[A-Z]{3}|[$€£¥])?")  # 1.234,50 EUR, 12%
_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_LIST = re.compile(r"\d+(, ?\d+)*")  # 2,4,6
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_ID = re.compile(r"(.*[\W_])?(?i:id|idx|ids|uuid|guid|index|key|nr|unnamed.*)([\W_]*\d*)?|.*[a-z]I[Dd]")
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


@dataclass(frozen=True)
class Column:
    """One column, described over all its rows."""

    name: str
    kind: Kind
    filled: int  # rows with a value
    counts: Mapping[str, int]  # rows of each different value, as text; of a list, of its items
    words: float = 0.0  # per text, on average; a Chinese or Japanese character is a word
    whole: bool = False  # numbers without fractions

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def is_category(self) -> bool:
        """Whether the values are few enough, and short enough, to be classes."""
        if self.kind == "boolean":
            return True
        if self.kind == "number":
            return self.whole and self.distinct <= max(FEW, self.filled // 20) and self._is_numbered
        return self.kind == "text" and self.words <= MOST_WORDS and self.distinct <= max(2, self.filled // 2)

    @property
    def is_measure(self) -> bool:
        """Whether the values are numbers on a scale."""
        return self.kind == "number" and not self.is_category

    @property
    def may_have_lists(self) -> bool:
        """Whether numbers with a comma may be several labels: `2,4` where other rows have 2 and 4."""
        lists = [text.split(",") for text in self.counts if "," in text] if self.kind == "number" else []
        return bool(lists) and all(part.strip() in self.counts for parts in lists for part in parts)

    @property
    def is_flag(self) -> bool:
        """Whether every row has 0 or 1, true or false."""
        return self.kind == "boolean" or (self.kind == "number" and self.counts.keys() <= {"0", "1"})

    @property
    def _is_numbered(self) -> bool:
        """Whether most numbers up to the highest occur, as in indices of classes; years and prices have gaps."""
        return self.distinct <= FEW or int(max(map(int, self.counts))) < 2 * self.distinct

    def phrase(self) -> str:
        """What the column holds, in a few words."""
        if self.kind == "constant":
            return f"one value, {in_quotes(next(iter(self.counts)))}"
        if self.is_category:
            return (
                f"{self.distinct} classes ({', '.join(list(self.counts)[:LISTED])}{', ...' * (self.distinct > LISTED)})"
            )
        if self.kind == "number":
            values = sorted(map(_as_float, self.counts))
            return f"numbers from {values[0]:g} to {values[-1]:g}"
        if self.kind == "amount":
            return f"numbers with signs that are not read, such as {in_quotes(next(iter(self.counts)))}"
        if self.kind == "text":
            return f"texts of {self.words:.0f} words on average" if self.words >= 1.5 else "words"
        return {
            "empty": "empty", "id": "an id", "date": "dates", "link": "links or addresses", "list": "lists",
            "answers": "answers with answer_start", "mapping": "mappings",
        }.get(self.kind, self.kind)  # fmt: skip


def describe(rows: Rows) -> dict[str, Column]:
    """Every column of the rows, in their order."""
    return {name: describe_column(name, values) for name, values in rows.columns.items()}


def describe_column(name: str, values: Sequence[Any]) -> Column:
    """One column: its kind is that of all its values; a single text among numbers makes it a column of texts."""
    filled = [value for value in values if not (is_missing(value) or (isinstance(value, str) and not value.strip()))]
    if not filled:
        return Column(name, "empty", 0, {})
    if all(isinstance(value, list) or is_list_text(value) for value in filled):
        answers = [value for value in filled if not (value == [] or value in ("[]", "[ ]"))]  # none: no answer
        if answers and all(map(_is_answers, answers)):
            return Column(name, "answers", len(filled), {})
        if any(isinstance(item, dict) for value in filled if isinstance(value, list) for item in value):
            return Column(name, "mapping", len(filled), {})
        items = Counter(_item(item) for value in filled if isinstance(value, list) for item in value)
        return Column(name, "list", len(filled), dict(items.most_common()))
    if any(isinstance(value, dict | list) for value in filled) or all(map(_is_answers, filled)):
        return Column(name, "answers" if all(map(_is_answers, filled)) else "mapping", len(filled), {})
    counts = dict(Counter(map(as_text, filled)).most_common())
    words = sum(len(_WORD.findall(text)) * count for text, count in counts.items()) / len(filled)
    kind = _kind_of(name, filled, counts, words)
    whole = kind == "number" and all(_as_float(text).is_integer() for text in counts)
    return Column(name, kind, len(filled), counts, words, whole)


def _kind_of(name: str, filled: Sequence[Any], counts: Mapping[str, int], words: float) -> Kind:
    if len(counts) == 1:
        return "constant"
    all_different = len(counts) == len(filled) > 2
    if all(as_boolean(value) for value in filled):
        return "boolean"
    if all(isinstance(value, datetime.date | datetime.datetime) or _DATE.fullmatch(str(value)) for value in filled):
        return "date"
    if all(map(_is_number, filled)):
        whole = all(_as_float(text).is_integer() for text in counts)
        return "id" if whole and (all_different or _ID.fullmatch(name)) else "number"
    if len(counts) > FEW and not _have_lists(counts) and all(_AMOUNT.fullmatch(str(value).strip()) for value in filled):
        return "amount"
    if all(_LINK.fullmatch(str(value)) for value in filled):
        return "link"
    if words == 1 and (_ID.fullmatch(name) or (all_different and _have_digits(counts))):
        return "id"
    return "text"


def _have_lists(texts: Mapping[str, int]) -> bool:
    """Whether texts are whole numbers and lists of them, some with more than two."""
    longer = [text for text in texts if text.count(",") > 1]
    return bool(longer) and all(map(_LIST.fullmatch, texts)) and not all(map(_THOUSANDS.fullmatch, longer))


def _have_digits(texts: Mapping[str, int]) -> bool:
    return sum(bool(re.search(r"\d", text)) for text in texts) * 2 > len(texts)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float | Decimal):
        return True
    return isinstance(value, str) and (_COMMA.fullmatch(value) is not None or _is_float(value))


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return re.fullmatch(r"\s*[+-]?[\d.]+([eE][+-]?\d+)?\s*", text) is not None


def _as_float(text: str) -> float:
    return float(text.replace(",", "."))


def _is_answers(value: Any) -> bool:
    """Whether a value, or JSON in a cell, is one answer or several, as in SQuAD."""
    if isinstance(value, str):  # JSON, or a dict of Python
        return value.lstrip()[:1] in ("{", "[") and "answer_start" in value
    if isinstance(value, list):
        return all(isinstance(item, dict) and "answer_start" in item for item in value) and bool(value)
    return isinstance(value, dict) and {"text", "answer_start"} <= value.keys()


def _item(item: Any) -> str:
    return as_text(item) if isinstance(item, str | int | float | bool) else json.dumps(item, default=str)
