"""Answers of regression: numbers; the mean of several votes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from tinybert_cli.answers.base import Answer, AnswerLabels, Reader, Vote, check_no_nan, weighted_mean

_LAST = re.compile(r"(?:[^\d:=]*[:=])?\s*([+-]?\d+(?:\.\d+)?)\s*[.!]?\s*", re.DOTALL)


class NumberReader(Reader):
    """A vote is a number."""

    remedy = "an answer is a number, or ends with one after a colon; check answer_column_name"

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        items = answer.value if isinstance(answer.value, list) else [answer.value]
        if len(items) > 1 and self.setting.votes:
            self.tally.add("votes", answer.where)
        for item in items:
            check_no_nan(item, answer.where)
            number = _number(item)
            if number is None:
                self.unmapped("unmapped", answer, "expected a number")
            else:
                self.tally.add("number", answer.where)
                yield (number,), 1.0

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        numbers = [weighted_mean(own) if own else np.zeros(1) for own in votes]
        logits = np.array(numbers, dtype=np.float32).reshape(len(votes), 1)
        return AnswerLabels(logits, None, np.array([bool(own) for own in votes], dtype=bool))


def _number(value: object) -> float | None:
    """The number that a value is, or that an answer such as `Score: 3.5` states."""
    if isinstance(value, str):
        match = _LAST.fullmatch(value)
        return None if match is None else float(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
