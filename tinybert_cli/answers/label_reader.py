"""Finds labels in answers: by name, by position, and by what the answers call them.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers.base import Answer, Reader, check_no_nan, is_empty, number_of, quoted
from tinybert_cli.answers.free_text import LabelMatcher, label_index
from tinybert_cli.answers.scores import Scores
from tinybert_cli.errors import ConfigError, InputError, did_you_mean
from tinybert_cli.label_values import as_number, as_text, listed
from tinybert_cli.tasks import label_indices
from tinybert_cli.types import Array


class LabelReader(Reader):
    """Finds labels by name, by position, and by what the answers call them."""

    @property
    def targets(self) -> Sequence[str]:
        """What `label_names` may map words to."""
        return self.names

    @cached_property
    def renamed(self) -> dict[str, str]:
        """What the answers call the labels → their names, without the names themselves.

        Raises:
            ConfigError: a name is none of the labels.
        """
        own = self.setting.label_names or {}
        for label, name in own.items():
            if name not in self.targets:
                raise ConfigError(
                    f"`label_names` maps '{label}' to '{name}', which is none of the labels",
                    key=("teacher",),
                    hint=did_you_mean(name, self.targets),
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
            if not self.count_position(value, index, answer):
                self.tally.add("label", answer.where)
            return index
        check_no_nan(value, answer.where)
        name = self.matcher.name(value) if isinstance(value, str) else None
        if name is None:
            self.unmapped("unmapped", answer, "the answer names no label, or several", self.hint)
            return None
        self.tally.add("free_text", answer.where, f"{quoted(value)} is {name}")
        return list(self.names).index(name)

    def count_position(self, value: Any, index: int, answer: Answer) -> bool:
        """Whether a label is a position in the labels, not a name; counted if it is."""
        is_position = as_number(value) is not None and as_text(value) not in self.known_words
        if is_position:
            self.tally.positions.add(index)
            self.tally.add("position", answer.where, f"{as_text(value)} = {self.names[index]}")
        return is_position

    @cached_property
    def known_words(self) -> set[str]:
        """The names of the labels, and what the answers call them."""
        return {*self.names, *self.renamed}

    def scores(self, pairs: Scores, answer: Answer, *, one_label: bool) -> Array | None:
        """The number of each label (C,), NaN where there is none; None, and counted, if it is not clear what they mean.

        Args:
            one_label: a row has one label, so the numbers of several words for it are added.

        Raises:
            InputError: one of several labels is unknown, or a number is negative or none.
        """
        indices = [self.index_of(label) for label, _ in pairs]
        if all(index is None for index in indices):
            self.unmapped("unmapped", answer, "expected a label, or a number for each label", self.hint)
            return None
        numbers, labels = np.full(len(self.names), np.nan), set[str]()
        for (label, number), index in zip(pairs, indices, strict=True):
            if index is None:
                raise InputError(f"unknown label {quoted(label)} in an answer", where=answer.where, hint=self.hint)
            if isinstance(number, (bool, dict, list)):
                self.unmapped("unmapped", answer, f"expected a number for '{self.names[index]}'")
                return None
            if as_text(label) in labels or not (one_label or np.isnan(numbers[index])):
                self.unmapped("unmapped", answer, f"two numbers for the label '{self.names[index]}'", self.hint)
                return None
            labels.add(as_text(label))
            value = self.number(number, answer)
            numbers[index] = value if np.isnan(numbers[index]) else np.nansum([numbers[index], value])
        return numbers

    def vector(self, values: Sequence[Any], answer: Answer) -> Array:
        """The number of each label (C,) in the order of the labels, NaN where there is none; InputError as `number`."""
        return np.array([self.number(value, answer) for value in values])

    def number(self, value: Any, answer: Answer) -> float:
        """A probability, or a number of votes; NaN for an empty cell.

        Raises:
            InputError: it is negative, or no number.
        """
        if is_empty(value):
            return float("nan")
        number = number_of(value)
        if number is None or number < 0:
            raise InputError(
                "expected a probability for each label, found "
                f"{'a negative number' if number is not None else quoted(value)}: {quoted(answer.value)}",
                where=answer.where,
                hint="probabilities are from 0 to 1; of log-probabilities take the exponential first"
                if number is not None
                else "write a number from 0 to 1, or leave it empty if there is none",
            )
        return number

    def count_missing(self, numbers: Array, answer: Answer) -> None:
        """Counts an answer that has no number for some of the labels."""
        missing = [name for name, number in zip(self.names, numbers, strict=True) if np.isnan(number)]
        if missing:
            more = ", ..." if len(missing) > 3 else ""
            self.tally.add("incomplete", answer.where, f"none for {', '.join(missing[:3])}{more} ({answer.where})")
