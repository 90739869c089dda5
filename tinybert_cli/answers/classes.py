"""Answers of text classification and of multi-label classification: labels, probabilities, votes, or free text.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers.base import (
    Answer,
    AnswerLabels,
    Reader,
    Vote,
    check_no_nan,
    confidence,
    quoted,
    weighted_mean,
)
from tinybert_cli.answers.free_text import LabelMatcher, label_index
from tinybert_cli.errors import ConfigError, InputError, did_you_mean
from tinybert_cli.label_values import as_number, as_text, listed
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.tasks import label_indices
from tinybert_cli.types import Array

TOLERANCE = 0.01  # by which the sum of probabilities may differ from 1: they are rounded
TIE = 1e-9
_SCORES = ("score", "confidence", "probability")


class LabelReader(Reader):
    """Finds labels by name, by position, and by what the answers call them."""

    @cached_property
    def renamed(self) -> dict[str, str]:
        """What the answers call the labels → their names, without the names themselves.

        Raises:
            ConfigError: a name is none of the labels.
        """
        own = self.setting.label_names or {}
        for label, name in own.items():
            if name not in self.names:
                raise ConfigError(
                    f"`label_names` maps '{label}' to '{name}', which is none of the labels",
                    key=("teacher",),
                    hint=did_you_mean(name, self.names),
                )
        of_data = self.data.label_names if isinstance(self.data.label_names, dict) else {}
        return {**of_data, **own}

    @cached_property
    def index_of(self) -> Callable[[object], int | None]:
        """From a label to the index of its class; None for what is not exactly a label."""
        return label_index(self.renamed, label_indices(self.names))

    @cached_property
    def matcher(self) -> LabelMatcher:
        """For answers in free text."""
        return LabelMatcher({**{name: name for name in self.names}, **self.renamed})

    @property
    def hint(self) -> str:
        """What to do about answers that name no label."""
        return f"labels: {listed(list(self.names))}; other words for them: teacher: {{label_names: {{word: label}}}}"

    def class_of(self, value: Any, answer: Answer) -> int | None:
        """The class that an answer names; None, and counted, if it names none."""
        index = self.index_of(value)
        if index is not None:
            is_position = as_number(value) is not None and as_text(value) not in (*self.names, *self.renamed)
            kind = "position" if is_position else "label"
            self.tally.add(kind, answer.where, f"{as_text(value)} = {self.names[index]}")
            return index
        check_no_nan(value, answer.where)
        name = self.matcher.name(value) if isinstance(value, str) else None
        if name is None:
            self.unmapped("unmapped", answer, "the answer names no label, or several", self.hint)
            return None
        self.tally.add("free_text", answer.where, f"{quoted(value)} is {name}")
        return list(self.names).index(name)

    def probabilities(self, value: Mapping[Any, Any], answer: Answer) -> Array:
        """Numbers per label as an array (C,), 0 where there is none.

        Raises:
            InputError: a label is unknown, or a number is negative or none.
        """
        numbers = np.zeros(len(self.names))
        for label, number in value.items():
            index = self.index_of(label)
            if index is None:
                raise InputError(f"unknown label '{as_text(label)}' in an answer", where=answer.where, hint=self.hint)
            if number is not None:
                numbers[index] += self.number(number, answer)
        return numbers

    def number(self, value: Any, answer: Answer) -> float:
        """A probability, or a number of votes; InputError if it is none."""
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not (np.isfinite(number) and number >= 0):
            what = "a negative number" if number < 0 else f"{value!r}"
            hint = "probabilities are from 0 to 1; of log-probabilities take the exponential first"
            raise InputError(
                f"expected a probability for each label, found {what}: {quoted(answer.value)}",
                where=answer.where,
                hint=hint,
            )
        return number


class ClassReader(LabelReader):
    """One of C classes. A vote is a distribution (C,)."""

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        value = _mapping_of(answer.value)
        if isinstance(value, Mapping):
            stated = self._stated(value, answer)
            if stated is None:
                yield from self._of_numbers(self.probabilities(value, answer), answer)
            else:
                yield from self._of_label(*stated)
        elif isinstance(value, list):
            yield from self._of_list(value, answer)
        else:
            yield from self._of_label(value, answer)

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        probabilities = np.full((len(votes), len(self.names)), 1 / len(self.names))
        for row, own in enumerate(votes):
            if own:
                probabilities[row] = weighted_mean(own)
                first, second = np.sort(probabilities[row])[::-1][:2]
                if first - second < TIE:
                    self.tally.add("ties", self.rows.location(row), self.rows.location(row))
        logits = np.log(probabilities.clip(EPSILON)).astype(np.float32)
        return AnswerLabels(logits, None, np.array([bool(own) for own in votes], dtype=bool))

    def _stated(self, value: Mapping[Any, Any], answer: Answer) -> tuple[str, Answer] | None:
        """The label in an object such as {"label": "positive", "confidence": 0.9}, and the answer with its confidence;
        None for numbers per label."""
        texts = [item for item in value.values() if isinstance(item, str)]
        labels = [item for item in texts if self.index_of(item) is not None or self.matcher.name(item) is not None]
        if not texts or all(self.index_of(key) is not None for key in value):
            return None
        score = next((value[key] for key in _SCORES if key in value), None)
        own = answer if score is None else replace(answer, confidence=confidence(score, answer.where))
        return (labels[0] if len(labels) == 1 else json.dumps(value)), own

    def _of_numbers(self, numbers: Array, answer: Answer) -> Iterator[Vote]:
        total = numbers.sum()
        if total == 0:
            raise InputError(
                f"all probabilities are 0: {quoted(answer.value)}", where=answer.where, hint="leave the answer out"
            )
        if self.setting.votes and (numbers == np.round(numbers)).all():  # counts
            self.tally.add("votes", answer.where)
            for index in np.flatnonzero(numbers):
                yield self._one_hot(int(index)), float(numbers[index])
            return
        self.tally.add("probabilities", answer.where)
        if abs(total - 1) > TOLERANCE:
            self.tally.add("normalised", answer.where, f"{total:.4g} ({answer.where})")
        yield tuple((numbers / total).tolist()), 1.0

    def _of_list(self, value: list[Any], answer: Answer) -> Iterator[Vote]:
        """One probability per class, a list with one label, or votes."""
        numbers = [item for item in value if isinstance(item, (int, float)) and not isinstance(item, bool)]
        if len(numbers) == len(value) == len(self.names) and not self.setting.votes:
            yield from self._of_numbers(np.array([self.number(item, answer) for item in value]), answer)
            return
        if len(value) > 1 and self.setting.votes:
            self.tally.add("votes", answer.where)
        for item in value:
            yield from self._of_label(item, answer)

    def _of_label(self, value: Any, answer: Answer) -> Iterator[Vote]:
        index = self.class_of(value, answer)
        if index is None:
            return
        if answer.confidence is None:
            yield self._one_hot(index), 1.0
            return
        distribution = [(1 - answer.confidence) / (len(self.names) - 1)] * len(self.names)
        distribution[index] = answer.confidence
        yield tuple(distribution), 1.0

    def _one_hot(self, index: int) -> tuple[float, ...]:
        return self._rows_of_identity[index]

    @cached_property
    def _rows_of_identity(self) -> list[tuple[float, ...]]:
        """One object per class, however many answers name it."""
        classes = range(len(self.names))
        return [tuple(float(index == other) for other in classes) for index in classes]


class MultiLabelReader(LabelReader):
    """Yes or no for each of C classes. A vote is a probability per class (C,)."""

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        value = _mapping_of(answer.value)
        if isinstance(value, Mapping):
            numbers = self.probabilities(value, answer)
            if (numbers > 1).any():
                raise InputError(
                    f"a probability above 1: {quoted(answer.value)}", where=answer.where, hint="divide per cent by 100"
                )
            self.tally.add("probabilities", answer.where)
            yield tuple(numbers.tolist()), 1.0
            return
        items = value if isinstance(value, list) else self._split(value)
        indices = [self.class_of(item, answer) for item in items]
        if None not in indices:  # else the other labels of the row would count as complete
            yield tuple(float(index in indices) for index in range(len(self.names))), 1.0

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        probabilities = np.full((len(votes), len(self.names)), 0.5)
        for row, own in enumerate(votes):
            if own:
                probabilities[row] = weighted_mean(own)
        logits = np.log(probabilities.clip(EPSILON)) - np.log((1 - probabilities).clip(EPSILON))
        return AnswerLabels(logits.astype(np.float32), None, np.array([bool(own) for own in votes], dtype=bool))

    def _split(self, value: Any) -> list[Any]:
        separator = self.data.label_separator or "|"
        if not isinstance(value, str) or self.index_of(value) is not None:
            return [value]
        if separator not in value and "," in value:
            separator = ","
        return [part.strip() for part in value.split(separator)]


def _mapping_of(value: Any) -> Any:
    """Labels with scores, as pipelines of transformers write them, as a mapping; other values unchanged."""
    items = [value] if isinstance(value, Mapping) else value
    if not (isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items)):
        return value
    pairs = [(item.get("label"), next((item[key] for key in _SCORES if key in item), None)) for item in items]
    if len(items) > 1 and all(label is not None and score is not None for label, score in pairs):
        return dict(pairs)
    return value
