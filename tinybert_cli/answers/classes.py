"""Answers of text classification: a label, probabilities, votes, or free text.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers.base import Answer, AnswerLabels, Vote, confidence, is_empty, number_of, quoted, weighted_mean
from tinybert_cli.answers.free_text import STATING
from tinybert_cli.answers.label_reader import LabelReader
from tinybert_cli.answers.scores import (
    DISTRIBUTIONS,
    SCORES,
    Scores,
    has_no_value,
    listed_scores,
    score_of,
    unwrapped,
)
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_text
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.types import Array

TOLERANCE = 0.01  # by which the sum of probabilities may differ from 1: they are rounded
TIE = 1e-9
LABELS, VECTOR, EITHER = "labels", "vector", "either"  # what a list of numbers may be


def has_tie(probabilities: Array) -> bool:
    """Whether the two most probable classes of a row, or of one of several (..., C), are equally probable."""
    ordered = np.sort(probabilities, axis=-1)
    return bool((ordered[..., -1:] - ordered[..., -2:-1] < TIE).any())


class ClassReader(LabelReader):
    """One of C classes. A vote is a distribution (C,)."""

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        value = unwrapped(answer.value)
        is_stated = isinstance(value, Mapping) and any(key in value for key in STATING)
        pairs = None if is_stated else listed_scores(value)
        if has_no_value(value):
            self.tally.add("empty", answer.where, answer.where)
        elif pairs is not None:
            yield from self._of_scores(pairs, answer)
        elif isinstance(value, Mapping):
            yield from self._of_mapping(value, answer)
        elif isinstance(value, list):
            yield from self._of_list(value, answer)
        else:
            yield from self._of_label(value, answer)

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        probabilities = np.full((len(votes), len(self.names)), 1 / len(self.names))
        for row, own in enumerate(votes):
            if own:
                probabilities[row] = weighted_mean(own)
                if has_tie(probabilities[row]):
                    self.tally.add("ties", self.rows.location(row), self.rows.location(row))
        logits = np.log(probabilities.clip(EPSILON)).astype(np.float32)
        return AnswerLabels(logits, None, np.array([bool(own) for own in votes], dtype=bool))

    def _of_mapping(self, value: Mapping[Any, Any], answer: Answer) -> Iterator[Vote]:
        """A label such as {"label": "positive", "confidence": 0.9}, numbers per label, or a label beside these."""
        label = None if self._names_labels(value) else self._stated(value)
        score = score_of(value)
        beside = None if label is None else self._beside(value)
        if label is None:
            yield from self._of_scores(list(value.items()), answer)
        elif beside is not None:
            yield from self._of_scores(beside, answer, stated=label)
        elif any(isinstance(value.get(key), (dict, list)) for key in (*SCORES, *DISTRIBUTIONS)):
            self.unmapped("unmapped", answer, "expected a number beside the label, or one for each label")
        else:
            own = None if score is None else confidence(score, answer.where)
            has_empty_score = own is None and any(key in value for key in SCORES)
            if has_empty_score and answer.confidence is None:
                self.tally.add("certain", answer.where, answer.where)
            yield from self._of_label(label, answer if own is None else replace(answer, confidence=own))

    def _beside(self, value: Mapping[Any, Any]) -> Scores | None:
        """The numbers of labels in an object that states one: those of an object or of a list in it, or its own."""
        if (pairs := listed_scores(value)) is not None:
            return pairs
        inner = [pairs for item in value.values() if (pairs := self._as_scores(item))]
        own = [
            (key, item)
            for key, item in value.items()
            if key not in (*STATING, *SCORES) and self.index_of(key) is not None and number_of(item) is not None
        ]
        return next(iter(inner), own or None)

    def _as_scores(self, item: Any) -> Scores | None:
        """The numbers of labels that a value is: by label, or one for each label; None for other values."""
        pairs = list(item.items()) if isinstance(item, Mapping) else listed_scores(item)
        if pairs is not None:
            are_labels = [self.index_of(label) is not None for label, _ in pairs]
            are_numbers = all(is_empty(number) or number_of(number) is not None for _, number in pairs)
            return pairs if are_labels and (all(are_labels) or (any(are_labels) and are_numbers)) else None
        if not isinstance(item, list) or len(item) != len(self.names) or not all(map(_is_number, item)):
            return None
        is_distribution = min(item) >= 0 and abs(sum(item) - 1) <= TOLERANCE
        return list(zip(self.names, item, strict=True)) if is_distribution else None

    def _stated(self, value: Mapping[Any, Any]) -> Any:
        """The label in an object: its `label` or `answer`, or the one text that is a label; all of its texts if that is
        not clear; None for numbers alone."""
        key = next((key for key in STATING if key in value), None)
        if key is not None:
            is_label = isinstance(value[key], str) or self.index_of(value[key]) is not None
            return value[key] if is_label else None
        texts = {str(key): item for key, item in value.items() if isinstance(item, str)}
        if not texts or (
            len(value) > 1 and all(is_empty(item) or number_of(item) is not None for item in value.values())
        ):
            return None
        labels = [text for text in texts.values() if self.index_of(text) is not None or self.matcher.name(text)]
        return labels[0] if len(labels) == 1 else json.dumps(texts)

    def _names_labels(self, value: Mapping[Any, Any]) -> bool:
        """Whether a mapping has keys, and all of them are labels."""
        return bool(value) and all(self.index_of(key) is not None for key in value)

    def _of_scores(self, pairs: Scores, answer: Answer, *, stated: Any = None) -> Iterator[Vote]:
        """Numbers per label; `stated`: the label beside them, which has to be the most probable one."""
        numbers = self.scores(pairs, answer, one_label=True)
        if numbers is None:
            return
        known = np.nan_to_num(numbers)
        if stated is not None and known.max() not in known[self._positions(stated)]:
            self.unmapped("unmapped", answer, "the label is not the most probable one of the numbers beside it")
            return
        if any(is_empty(number) for _, number in pairs):
            self.count_missing(numbers, answer)
        if len(pairs) == 1 and 0 < known.max() < 1 and answer.confidence is None:  # {"positive": 0.3}
            yield self._with_confidence(int(known.argmax()), float(known.max()), answer), 1.0
            return
        yield from self._of_numbers(known, answer)

    def _positions(self, label: Any) -> list[int]:
        """The position of a label, also in free text; empty for what is no label."""
        index = self.index_of(label)
        if index is None and isinstance(label, str) and (name := self.matcher.name(label)) is not None:
            index = list(self.names).index(name)
        return [] if index is None else [index]

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
        if answer.confidence is not None:
            raise InputError(
                f"a confidence beside probabilities: {answer.confidence:g}, and {quoted(answer.value)}",
                where=answer.where,
                hint="a confidence is for an answer that is one label: leave confidence_column_name out",
            )
        self.tally.add("probabilities", answer.where)
        if abs(total - 1) > TOLERANCE:
            self.tally.add("normalised", answer.where, f"{total:.4g} ({answer.where})")
        yield tuple((numbers / total).tolist()), 1.0

    def _of_list(self, value: list[Any], answer: Answer) -> Iterator[Vote]:
        """One probability per class, a list with one label, or votes."""
        if self._is_vector(value, answer):
            numbers = self.vector(value, answer)
            self.count_missing(numbers, answer)
            yield from self._of_numbers(np.nan_to_num(numbers), answer)
            return
        if len(value) > 1 and self.setting.votes:
            self.tally.add("votes", answer.where)
        if not value:
            self.unmapped("unmapped", answer, "an empty list names no label", self.hint)
        votes = [list(self._of_item(item, answer)) for item in value]
        if self.setting.votes or all(votes):  # else the answer is not understood
            for own in votes:
                yield from own

    def _is_vector(self, value: list[Any], answer: Answer) -> bool:
        """Whether a list has a number for each class, not positions or other labels.

        Raises:
            InputError: it could be either, and the other lists of the file prove nothing.
        """
        form = self._form(value)
        if form == EITHER and len(self._proven) == 1:
            form = next(iter(self._proven))
        elif form == EITHER:
            total, are_names = sum(value), all(as_text(item) in self.known_words for item in value)
            if self.setting.votes and are_names:
                form = LABELS
            elif not self.setting.votes and abs(total - 1) <= TOLERANCE:
                form = VECTOR
        if form == EITHER:
            raise InputError(
                f"{quoted(answer.value)} could be {len(value)} labels, or a number for each label",
                where=answer.where,
                hint="write the names of the labels, or a number for each name, such as "
                f"{dict(zip(self.names, value, strict=True))}",
            )
        return form == VECTOR

    def _form(self, value: list[Any]) -> str:
        """What a list is by itself: labels, or a number for each of them."""
        numbers = [item for item in value if item is not None]
        if len(value) != len(self.names) or not numbers or not all(map(_is_number, numbers)):
            return LABELS
        if any(self.index_of(item) is None for item in numbers) or (None in value and not self.setting.votes):
            return VECTOR
        return EITHER if any(numbers) and None not in value else LABELS  # probabilities are not all 0

    @cached_property
    def _proven(self) -> set[str]:
        """What the lists of numbers of the file are that can only be one of the two."""
        lists = [value for answer in self.answers if isinstance(value := unwrapped(answer.value), list) and value]
        return {self._form(value) for value in lists if all(map(_is_number, value))} & {LABELS, VECTOR}

    def _of_item(self, item: Any, answer: Answer) -> Iterator[Vote]:
        if isinstance(item, Mapping) and self._stated(item) is not None:
            yield from self._of_mapping(item, answer)
        else:
            yield from self._of_label(item, answer)

    def _of_label(self, value: Any, answer: Answer) -> Iterator[Vote]:
        index = self.class_of(value, answer)
        if index is None:
            return
        if answer.confidence is None and self.setting.confidence_column_name is not None and len(self.names) > 1:
            self.tally.add("certain", answer.where, answer.where)
        yield self._with_confidence(index, 1.0 if answer.confidence is None else answer.confidence, answer), 1.0

    def _with_confidence(self, index: int, probability: float, answer: Answer) -> tuple[float, ...]:
        """The distribution of a label with its probability; the other labels share the rest."""
        if probability == 1 or len(self.names) == 1:
            return self._one_hot(index)
        rest = (1 - probability) / (len(self.names) - 1)
        if rest > probability + TIE:
            self.tally.add("doubtful", answer.where, f"{self.names[index]} with {probability:g} ({answer.where})")
        distribution = [rest] * len(self.names)
        distribution[index] = probability
        return tuple(distribution)

    def _one_hot(self, index: int) -> tuple[float, ...]:
        return self._rows_of_identity[index]

    @cached_property
    def _rows_of_identity(self) -> list[tuple[float, ...]]:
        """One object per class, however many answers name it."""
        classes = range(len(self.names))
        return [tuple(float(index == other) for other in classes) for index in classes]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
