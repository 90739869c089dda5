"""Answers of regression: numbers; the mean of several votes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from tinybert_cli.answers.base import (
    Answer,
    AnswerLabels,
    Reader,
    Vote,
    check_no_nan,
    number_of,
    weighted_mean,
)
from tinybert_cli.label_values import have_decimal_commas, read_number

_DIGITS = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?"
_LAST = re.compile(rf"(?:[^\d:=]*[:=])?\s*({_DIGITS})\s*[.!]?\s*", re.DOTALL)
_LARGEST = float(np.finfo(np.float32).max)


class NumberReader(Reader):
    """A vote is a number."""

    remedy = "an answer is a number, or ends with one after a colon; check answer_column_name"

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        items = answer.value if isinstance(answer.value, list) else [answer.value]
        if len(items) > 1 and self.setting.votes:
            self.tally.add("votes", answer.where)
        for item in items:
            check_no_nan(item, answer.where)
        numbers = [self._number(item) for item in items]
        if None in numbers or not numbers:
            self.unmapped("unmapped", answer, "expected a number")
        if None in numbers and not self.setting.votes:
            return
        for item, number in zip(items, numbers, strict=True):
            if number is None:
                continue
            self.tally.add("number", answer.where)
            if isinstance(item, str) and "," in item:
                self.tally.add("decimal_comma", answer.where, f"{item.strip()} is {number:g}")
            yield (number,), 1.0

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        numbers = [weighted_mean(own) if own else np.zeros(1) for own in votes]
        logits = np.array(numbers, dtype=np.float32).reshape(len(votes), 1)
        return AnswerLabels(logits, None, np.array([bool(own) for own in votes], dtype=bool))

    @cached_property
    def _has_commas(self) -> bool:
        """Whether the answers that are just a number prove a decimal comma, as in gold labels."""
        return have_decimal_commas(text for answer in self.answers if (text := _stated(answer.value)) is not None)

    def _number(self, value: object) -> float | None:
        """The number that a value is, or that an answer such as `Score: 3.5` states; None if float32 cannot hold it."""
        number = number_of(value)
        text = _stated(value) if number is None else None
        if text is not None:
            number = read_number(text, comma=True) if self._has_commas else number_of(text)
        return None if number is None or abs(number) > _LARGEST else number


def _stated(value: object) -> str | None:
    """The text of the number in an answer; None if there is none, or if it is not clear which."""
    match = _LAST.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else match[1]
