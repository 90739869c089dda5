"""Answers of multi-label classification: lists of labels, or a probability for each label.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers.base import Answer, AnswerLabels, Vote, is_empty, number_of, quoted, weighted_mean
from tinybert_cli.answers.label_reader import LabelReader
from tinybert_cli.answers.scores import Scores, has_no_value, listed_scores, unwrapped
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_boolean, as_text
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.tasks.label_lists import SEPARATOR, list_in_text
from tinybert_cli.types import Array

LABELS, VECTOR, EITHER, NEITHER = "labels", "vector", "either", "neither"  # what a list may be


class MultiLabelReader(LabelReader):
    """Yes or no for each of C classes. A vote is a probability per class (C,)."""

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        value = unwrapped(answer.value)
        pairs = self._pairs(value)
        if has_no_value(value):
            self.tally.add("empty", answer.where, answer.where)
        elif pairs is not None:
            numbers = self.scores([(label, _with_flag(number)) for label, number in pairs], answer, one_label=False)
            if numbers is not None:
                yield from self._of_numbers(numbers, answer)
        else:
            yield from self._of_list(self._items(value), answer)

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        probabilities = np.full((len(votes), len(self.names)), 0.5)
        for row, own in enumerate(votes):
            if own:
                probabilities[row] = weighted_mean(own)
        logits = np.log(probabilities.clip(EPSILON)) - np.log((1 - probabilities).clip(EPSILON))
        return AnswerLabels(logits.astype(np.float32), None, np.array([bool(own) for own in votes], dtype=bool))

    def _pairs(self, value: Any) -> Scores | None:
        """Labels with numbers: a mapping, or one or several {label, score}; None for other values."""
        if not isinstance(value, Mapping):
            return listed_scores(value)
        if all(self.index_of(key) is None for key in value):
            return listed_scores(value) or listed_scores([value]) or list(value.items())
        return list(value.items())

    def _of_numbers(self, numbers: Array, answer: Answer) -> Iterator[Vote]:
        if (numbers > 1).any():
            raise InputError(
                f"a probability above 1: {quoted(answer.value)}", where=answer.where, hint="divide per cent by 100"
            )
        if np.isnan(numbers).any() and self.setting.unmapped == "refuse":
            raise InputError(
                f"no number for some of the labels: {quoted(answer.value)}",
                where=answer.where,
                hint="a pipeline of transformers writes all of them with top_k=None; of labels without a number write "
                'a list: ["name", ...]',
            )
        self.count_missing(numbers, answer)
        self.tally.add("probabilities", answer.where)
        yield tuple(np.nan_to_num(numbers).tolist()), 1.0

    def _of_list(self, items: list[Any], answer: Answer) -> Iterator[Vote]:
        form = self._form(items)
        if form == EITHER:
            form = self._form_of_file
        if form == EITHER:
            example = dict(zip(self.names, map(_with_flag, items), strict=True))
            raise InputError(
                f"{quoted(answer.value)} could be positions of labels, or a number for each label",
                where=answer.where,
                hint=f"write the names of the labels in a list, or a number for each name, such as {example}",
            )
        if form == NEITHER:
            problem = f"neither different positions of labels nor a number from 0 to 1 for each of {len(self.names)}"
            self.unmapped("unmapped", answer, problem, self.hint)
        elif form == VECTOR:
            numbers = self.vector([_with_flag(item) for item in items], answer)
            own = [name for name, number in zip(self.names, numbers, strict=True) if number >= 0.5]
            self.tally.add("vector", answer.where, f"{quoted(answer.value)} is {', '.join(own) or 'none'}")
            yield from self._of_numbers(numbers, answer)
        else:
            indices = [self.class_of(item, answer) for item in items]
            if None not in indices:  # else the other labels of the row would count as complete
                yield tuple(float(index in indices) for index in range(len(self.names))), 1.0

    def _form(self, items: Sequence[Any]) -> str:
        """What a list is by itself: labels, or a number for each of them (see `tasks.label_lists`)."""
        indices = [self.index_of(item) for item in items]
        are_labels = None not in indices and len(set(indices)) == len(indices)
        if items and all(as_text(item) in self.renamed for item in items if not _is_nested(item)):
            return LABELS if are_labels else NEITHER
        numbers = [number_of(_with_flag(item)) for item in items if not is_empty(item)]
        if None in numbers:
            return LABELS
        is_vector = len(items) == len(self.names) and all(0 <= number <= 1 for number in numbers if number is not None)
        if is_vector and numbers:
            return EITHER if are_labels else VECTOR
        return LABELS if are_labels else NEITHER

    @cached_property
    def _form_of_file(self) -> str:
        """What all lists of numbers of the file are, if others than these prove it."""
        lists = [self._items(value) for answer in self.answers if not _has_names(value := unwrapped(answer.value))]
        forms = {self._form(items) for items in lists if not any(_is_name(item) for item in items)}
        proven = forms & {LABELS, VECTOR}
        return proven.pop() if len(proven) == 1 else EITHER

    def _items(self, value: Any) -> list[Any]:
        """The items of a list, also one written as text; else the value alone."""
        if isinstance(value, list):
            return value
        if not isinstance(value, str) or self.index_of(value) is not None:
            return [value]
        items = list_in_text(value.strip())
        if items is not None:
            return items
        separator = self.data.label_separator or SEPARATOR
        if separator not in value and "," in value:
            separator = ","
        return [part.strip() for part in value.split(separator) if part.strip()]


def _with_flag(value: Any) -> Any:
    """1 or 0 for a boolean, also as text; other values unchanged."""
    boolean = as_boolean(value)
    return value if boolean is None else float(boolean == "true")


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, Mapping))


def _has_names(value: Any) -> bool:
    return is_empty(value) or isinstance(value, Mapping) or (isinstance(value, list) and any(map(_is_nested, value)))


def _is_name(item: Any) -> bool:
    return number_of(_with_flag(item)) is None and not is_empty(item)
