"""Answers of token classification: a tag per word, or spans of characters.

A row is a list of words, and spans are characters of a text. The text is the words with other white space: the
characters that are no white space are the same, one by one, and these carry a span to its words.

Shapes: N rows, P words of all rows, C tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers import json_texts, labelled_spans
from tinybert_cli.answers.base import Answer, AnswerLabels, Vote, quoted
from tinybert_cli.answers.classes import has_tie
from tinybert_cli.answers.label_reader import LabelReader
from tinybert_cli.answers.labelled_spans import Span
from tinybert_cli.metrics.entities import OUTSIDE, scheme_of
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.tasks import words_of
from tinybert_cli.types import Layout

_WITHIN_A_WORD = re.compile(f"[{labelled_spans.WORD_LETTERS}]{{2}}")
Words = tuple[int, int]  # the first word of an entity, and the first one after it


class TagReader(LabelReader):
    """A vote is the class index of each word of the row."""

    remedy = (
        'an answer is a tag for each word, or spans such as [0, 3, "PER"] with labels of the data; other words for '
        "labels: teacher: {label_names: {word: label}}"
    )

    @cached_property
    def words(self) -> list[list[str]]:
        return words_of(self.rows, self.data)

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        value, words = json_texts.parsed(answer.value), self.words[row]
        if isinstance(value, str):
            value = value.split()
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            self.unmapped("unmapped", answer, "expected a tag for each word, or a list of spans")
        elif any(isinstance(item, (dict, list)) for item in value) or (not value and words):
            spans = labelled_spans.read_spans(value)
            if spans is None:
                self.unmapped("unmapped", answer, "a span in no known form", f"write {labelled_spans.FORMS}")
                return
            tags = self._of_spans(spans, answer, row)
            if tags is not None:
                self.tally.add("spans", answer.where)
                yield tuple(tags), 1.0
        elif len(value) != len(words):
            problem = f"{len(value)} tags for {len(words)} words"
            self.unmapped("misaligned", answer, problem, "one tag for each word of the row", example=problem)
        else:
            yield from self._of_tags(value, answer)

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        counts = [len(words) for words in self.words]
        offsets = np.cumsum([0, *counts])
        probabilities = np.full((int(offsets[-1]), len(self.names)), 1 / len(self.names))
        for row, own in enumerate(votes):
            if not own:
                continue
            part = probabilities[offsets[row] : offsets[row + 1]]
            part[:] = 0
            for tags, weight in own:
                part[np.arange(len(part)), np.array(tags, dtype=np.int64)] += weight  # type: ignore[call-overload]
            part /= sum(weight for _, weight in own)
            if has_tie(part):
                self.tally.add("ties", self.rows.location(row), self.rows.location(row))
        logits = np.log(probabilities.clip(EPSILON)).astype(np.float32)
        return AnswerLabels(logits, Layout(offsets), np.array([bool(own) for own in votes], dtype=bool))

    def _of_tags(self, value: list[Any], answer: Answer) -> Iterator[Vote]:
        indices = [self.index_of(tag) for tag in value]
        wrong = next((tag for tag, index in zip(value, indices, strict=True) if index is None), None)
        if None in indices:
            problem = f"unknown tag {quoted(wrong)}"
            self.unmapped("unmapped", answer, problem, self.hint, example=problem)
            return
        self.tally.add("tags", answer.where)
        for tag, index in dict(zip(value, indices, strict=True)).items():
            assert index is not None  # see above
            self.count_position(tag, index, answer)
        yield tuple(indices), 1.0

    # -- spans -----------------------------------------------------------------------------------------------

    def _of_spans(self, spans: Sequence[Span], answer: Answer, row: int) -> list[int] | None:
        """The tag of each word; None, and counted, if a span has no known label or no words, or if two overlap."""
        words = self.words[row]
        text = answer.text if answer.text is not None else " ".join(words)
        entities: dict[Words, str] = {}
        overlap = False
        located = _Locator(text, words)
        kinds = [self._kind(span.label) for span in spans]
        kinds_of_text: dict[str | None, list[str | None]] = {}
        for span, kind in zip(spans, kinds, strict=True):
            kinds_of_text.setdefault(_text_of(span), []).append(kind)
        for span, kind in zip(spans, kinds, strict=True):
            if kind is None:
                problem = f"unknown label '{span.label}' of a span"
                self.unmapped("unmapped", answer, problem, self._kinds_hint, example=problem)
                return None
            alike = kinds_of_text[_text_of(span)]
            own = located.words(span, len(alike) if set(alike) == {kind} else 1)
            if own is None:
                where = f"the span '{span.text or f'{span.begin} to {span.end}'}'"
                if located.several:
                    self.unmapped("several", answer, f"{where} occurs several times in the text", example=where)
                else:
                    self.unmapped("lost", answer, f"{where} is not in the text", example=where)
                return None
            if located.moved:
                self.tally.add("moved", answer.where, f"'{span.text}' ({answer.where})")
            if located.utf16:
                self.tally.add("utf16", answer.where, f"{span.begin} to {span.end} ({answer.where})")
            if located.cut:
                self.tally.add("cut", answer.where, f"'{text[located.cut[0] : located.cut[1]]}' ({answer.where})")
            if kind != OUTSIDE:
                overlap |= any(entities.get(words_of_span, kind) != kind for words_of_span in own)
                entities |= dict.fromkeys(own, kind)
        tags = [OUTSIDE] * len(words)
        for (begin, end), kind in entities.items():
            if overlap or any(tag != OUTSIDE for tag in tags[begin:end]):
                self.unmapped("overlapping", answer, "spans overlap: a word has one tag")
                return None
            tags[begin:end] = self._tags(kind, end - begin)
        indices = [self.index_of(tag) for tag in tags]
        if None in indices:
            self.unmapped("unmapped", answer, "spans leave words without a tag, and there is no tag O", self.hint)
            return None
        return [index for index in indices if index is not None]

    @cached_property
    def _types(self) -> list[str]:
        return scheme_of(self.names)[0]

    @property
    def _kinds_hint(self) -> str:
        own = f"labels of entities: {', '.join(self._types)}"
        return f"{own}; other words for them: teacher: {{label_names: {{word: label}}}}, and O for none"

    @property
    def targets(self) -> Sequence[str]:
        """Spans are renamed to types of entities, tags to tags."""
        return [*dict.fromkeys([*self.names, *self._types, OUTSIDE])]

    def _kind(self, label: str) -> str | None:
        """The type of entity that a span's label names; O if it is to be ignored."""
        name = self.renamed[label] if label in (self.setting.label_names or {}) else label
        if name == OUTSIDE:
            return name
        alike = [kind for kind in self._types if kind == name] or [
            kind for kind in self._types if kind.casefold() == name.strip().casefold()
        ]
        return alike[0] if len(alike) == 1 else None

    def _tags(self, kind: str, length: int) -> list[str]:
        """The tags of an entity of so many words, in the scheme of the classes."""
        _, prefixed, _ = scheme_of(self.names)
        if not prefixed:
            return [kind] * length

        def tag(letters: str) -> str:
            return next((f"{letter}-{kind}" for letter in letters if f"{letter}-{kind}" in self.names), f"I-{kind}")

        if length == 1:
            return [tag("SUWB")]
        return [tag("B"), *[tag("IM")] * (length - 2), tag("ELIM")]


def _text_of(span: Span) -> str | None:
    return None if span.text is None else span.text.strip()


class _Locator:
    """Finds the words of a span in one row."""

    def __init__(self, text: str, words: Sequence[str]) -> None:
        self.text = text
        self.inside = [index for index, letter in enumerate(text) if not letter.isspace()]
        letters = [(number, letter) for number, word in enumerate(words) for letter in word if not letter.isspace()]
        same = len(letters) == len(self.inside)
        self.aligned = same and all(text[i] == own for i, (_, own) in zip(self.inside, letters, strict=True))
        self.word_of = [number for number, _ in letters]
        self.moved = self.several = self.utf16 = False
        self.cut: tuple[int, int] | None = None

    def words(self, span: Span, listed: int) -> list[Words] | None:
        """The words of each occurrence of a span; None if it has none, or if it is not clear which.

        Args:
            listed: how often the answer lists a span with this text; 1 if their labels differ, since it is not clear
                then which of them belongs to which occurrence.
        """
        self.moved, self.several, self.utf16, self.cut = False, False, False, None
        if not self.aligned:
            return None
        characters = self._characters(span, listed)
        if not characters:
            return None
        result = [self._words(begin, end) for begin, end in characters]
        return [own for own in result if own is not None] if None not in result else None

    def _characters(self, span: Span, listed: int) -> list[tuple[int, int]]:
        if span.begin is not None and span.end is not None:
            known = (span.begin, span.end)
            in_utf16 = labelled_spans.of_utf16(self.text, span.begin), labelled_spans.of_utf16(self.text, span.end)
            fitting = [
                (begin, end)
                for begin, end in dict.fromkeys((known, in_utf16))
                if 0 <= begin < end <= len(self.text) and self._holds(begin, end, span.text)
            ]
            if fitting:
                whole = [characters for characters in fitting if self._are_words(*characters)]
                characters = (whole or fitting)[0]
                self.utf16 = span.text is None and characters != known
                return [characters]
            if span.text is None:
                return []
        assert span.text is not None  # see `labelled_spans.read_spans`
        text = span.text.strip()
        begins = [
            i for i in range(len(self.text)) if self.text.startswith(text, i) and self._is_whole(i, i + len(text))
        ]
        self.moved = span.begin is not None
        if len(begins) == 1 or (len(begins) == listed and span.begin is None):
            return [(begin, begin + len(text)) for begin in begins]
        self.several = len(begins) > 1
        return []

    def _holds(self, begin: int, end: int, text: str | None) -> bool:
        return text is None or "".join(self.text[begin:end].split()) == "".join(text.split())

    def _is_whole(self, begin: int, end: int) -> bool:
        """Whether the text does not begin or end within a word of letters."""
        before, after = self.text[max(0, begin - 1) : begin + 1], self.text[end - 1 : end + 1]
        return not any(map(_WITHIN_A_WORD.fullmatch, (before, after)))

    def _are_words(self, begin: int, end: int) -> bool:
        """Whether characters are one or several whole words."""
        first, last = np.searchsorted(self.inside, [begin, end]).tolist()
        if last <= first:
            return False
        starts = first == 0 or self.word_of[first - 1] != self.word_of[first]
        stops = last == len(self.word_of) or self.word_of[last] != self.word_of[last - 1]
        return bool(starts and stops)

    def _words(self, begin: int, end: int) -> Words | None:
        """The words of characters, whole if they begin or end within one."""
        first, last = np.searchsorted(self.inside, [begin, end]).tolist()
        if last <= first:
            return None
        if not self._are_words(begin, end):
            self.cut = (begin, end)
        return self.word_of[first], self.word_of[last - 1] + 1
