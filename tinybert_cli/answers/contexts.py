"""Answers of question answering: texts, with or without the character at which they begin, located in the context.

An answer that occurs several times in the context shares its probability among the occurrences, unless it would lose
to a less probable one by that (see `majority`).

Shapes: N rows, P tokens of all rows. A row has one token for "no answer", as [CLS] of a model, and one for each span
that an answer is; models of all tokenizers learn from these, see `QuestionAnswering.align`.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.answers import json_texts, labelled_spans
from tinybert_cli.answers.base import Answer, AnswerLabels, Reader, Vote, confidence, quoted
from tinybert_cli.answers.majority import decided_by_majority, rows_with_a_tie
from tinybert_cli.answers.scores import score_of
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_text
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.tasks import text_columns_of
from tinybert_cli.tasks.gold_answers import IMPOSSIBLE, is_impossible
from tinybert_cli.types import Array, Layout

Characters = tuple[int, int]  # first character and end in the context
_AROUND = " \t\r\n\"'`“”‘’.,;:!?()[]«»"
_STATED = re.compile(r"(?:so |the |my |final |correct )*answer(?: is)?\b[:\s]+(.+)", re.IGNORECASE | re.DOTALL)
_LETTER = f"[{labelled_spans.WORD_LETTERS}]"
_NO_SPAN = -1


@dataclass(frozen=True)
class _Text:
    """One of the answers that a value is."""

    text: str | None  # None: the context has no answer
    begin: int | None = None  # in the context
    score: Any = None  # as it is in the file


class SpanReader(Reader):
    """A vote is the occurrences of an answer in the context; none of them for "no answer"."""

    remedy = "an answer is a part of the context of its row; check id_column_name and answer_column_name"

    @cached_property
    def contexts(self) -> list[str]:
        _, contexts = text_columns_of(self.rows, self.data)
        return contexts

    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        texts = _texts(json_texts.parsed(answer.value), answer.where)
        if texts is None:
            self.unmapped(
                "unmapped", answer, "expected the text of an answer", '"Ada", or {"text": "Ada", "start": 18}'
            )
            return
        if len(texts) > 1 and self.setting.votes:
            self.tally.add("votes", answer.where)
        weights = _weights(texts, answer)
        if weights is None:
            self.unmapped("unmapped", answer, "a score for some of the answers only")
            return
        for own, weight in zip(texts, weights, strict=True):
            if not weight:
                continue
            if own.text is None or (self.setting.no_answer is not None and _same(own.text, self.setting.no_answer)):
                self.tally.add("no_answer", answer.where)
                yield (), weight
                continue
            occurrences = self._occurrences(own.text, own.begin, row, answer)
            if not occurrences:
                self.unmapped("lost", answer, "the context does not contain the answer")
                continue
            self.tally.add("located", answer.where)
            if len(occurrences) > 1:
                self.tally.add("repeated", answer.where, f"{quoted(own.text)} ({answer.where})")
            yield tuple(occurrences), weight

    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        labels = _as_labels([_shares(own) for own in votes], [bool(own) for own in votes])
        for row in rows_with_a_tie(labels, self.contexts):
            self.tally.add("ties", self.rows.location(row), self.rows.location(row))
        return decided_by_majority(labels, self.contexts)

    def _occurrences(self, text: str, begin: int | None, row: int, answer: Answer) -> list[Characters]:
        context, stripped = self.contexts[row], text.strip()
        if not stripped:
            return []
        if begin is not None:
            for position in (begin, labelled_spans.of_utf16(context, begin)):
                start = position + len(text) - len(text.lstrip())
                if position >= 0 and context[start : start + len(stripped)] == stripped:
                    return [(start, start + len(stripped))]
            self.tally.add("moved", answer.where, f"{quoted(text)} ({answer.where})")
        written = dict.fromkeys([stripped, *(unicodedata.normalize(form, stripped) for form in ("NFC", "NFD"))])
        for pattern, flags in itertools.chain.from_iterable(map(_patterns, written)):
            occurrences = [match.span() for match in re.finditer(pattern, context, flags)]
            if occurrences:
                return occurrences
        return []


def common_layout(parts: Sequence[AnswerLabels]) -> list[AnswerLabels]:
    """The labels of several teachers on the same tokens: in each row those of all of them."""
    rows = [list(_spans_of_rows(part)) for part in parts]
    result = []
    for part, own in zip(parts, rows, strict=True):
        shares: list[dict[Characters, tuple[float, float]]] = []
        for index in range(len(part.answered)):
            everything = {occurrence: (0.0, 0.0) for other in rows for occurrence in other[index]}
            shares.append({**everything, **own[index]})
        result.append(_on_tokens(shares, part.answered))
    return result


def _spans_of_rows(part: AnswerLabels) -> Iterator[dict[Characters, tuple[float, float]]]:
    assert part.layout is not None and part.layout.token_spans is not None
    probabilities = np.exp(part.logits.astype(np.float64))
    for begin, end in part.layout.ranges():
        spans = part.layout.token_spans[begin:end, 1:].tolist()
        yield {
            (first, last): (float(p[0]), float(p[1]))
            for (first, last), p in zip(spans, probabilities[begin:end], strict=True)
        }


def _as_labels(shares: Sequence[dict[Characters, float]], answered: Sequence[bool]) -> AnswerLabels:
    pairs = [{occurrence: (share, share) for occurrence, share in own.items()} for own in shares]
    return _on_tokens(pairs, np.array(answered, dtype=bool))


def _on_tokens(shares: Sequence[dict[Characters, tuple[float, float]]], answered: Array) -> AnswerLabels:
    """Probabilities of occurrences as logits of tokens, the first of each row for "no answer"."""
    none = (_NO_SPAN, _NO_SPAN)
    spans: list[tuple[int, int, int]] = []
    probabilities: list[tuple[float, float]] = []
    counts = []
    for own in shares:
        occurrences = [none, *sorted(occurrence for occurrence in own if occurrence != none)]
        spans += [(0, *occurrence) for occurrence in occurrences]
        probabilities += [own.get(occurrence, (0.0, 0.0)) for occurrence in occurrences]
        counts.append(len(occurrences))
    logits = np.log(np.array(probabilities).reshape(-1, 2).clip(EPSILON)).astype(np.float32)
    token_spans = np.array(spans, dtype=np.int32).reshape(-1, 3)
    return AnswerLabels(logits, Layout(np.cumsum([0, *counts]), token_spans), answered)


def _shares(votes: Sequence[Vote]) -> dict[Characters, float]:
    """The probability of each occurrence, and of "no answer"."""
    total = sum(weight for _, weight in votes)
    shares: dict[Characters, float] = defaultdict(float)
    for occurrences, weight in votes:
        own = list(occurrences) or [(_NO_SPAN, _NO_SPAN)]  # type: ignore[call-overload]
        for occurrence in own:
            shares[occurrence] += weight / total / len(own)
    return dict(shares)


def _patterns(text: str) -> Iterator[tuple[str, int]]:
    """What to look for, from the exact text to one without case, the punctuation around it, and `The answer is`."""
    bare = text.strip(_AROUND)
    for wanted, flags in ((text, 0), *(((bare, 0), (bare, re.IGNORECASE)) if bare else ())):
        yield _pattern(wanted, whole_numbers=True), flags
        yield _pattern(wanted), flags
    stated = _STATED.fullmatch(text)
    if stated is not None and stated[1].strip(_AROUND):
        yield from _patterns(stated[1])


def _pattern(text: str, *, whole_numbers: bool = False) -> str:
    """The text with any white space between its words, and not within a longer word.

    Args:
        whole_numbers: also not before or after the point of a longer number: 5 is not in 5.00.
    """
    words = r"\s+".join(map(re.escape, text.split()))
    begin = f"(?<!{_LETTER})" if re.match(_LETTER, text[0]) else ""
    end = f"(?!{_LETTER})" if re.match(_LETTER, text[-1]) else ""
    if whole_numbers:
        begin += r"(?<![0-9][.,])" if text[0].isdigit() else ""
        end += r"(?![.,][0-9])" if text[-1].isdigit() else ""
    return f"{begin}{words}{end}"


def _weights(texts: Sequence[_Text], answer: Answer) -> list[float] | None:
    """What each of several answers counts: the same without scores, else its share of one vote; None if some have none.

    Raises:
        InputError: a score is not from 0 to 1, or all of them are 0.
    """
    if len(texts) < 2 or all(own.score is None for own in texts):
        return [1.0] * len(texts)
    scores = [confidence(own.score, answer.where) for own in texts]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    if not any(known):
        raise InputError(f"all scores are 0: {quoted(answer.value)}", where=answer.where, hint="leave the answer out")
    return [score / sum(known) for score in known]


def _texts(value: Any, where: str) -> list[_Text] | None:
    """The answers in one of the forms of SQuAD, of pipelines and annotation tools, or a plain text or number; None for
    other values, such as lists in lists.

    Raises:
        InputError: `is_impossible` beside an answer is neither true nor false.
    """
    if isinstance(value, str):
        return [_Text(value)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [_Text(as_text(value))]
    if isinstance(value, dict):
        if is_impossible(value.get(IMPOSSIBLE), where):  # as in gold answers, whatever the text is
            return [_Text(None, score=score_of(value))]
        begins = next((value[key] for key in ("answer_start", "start", "begin", "start_offset") if key in value), None)
        texts = next((value[key] for key in ("text", "answer", "texts") if key in value), None)
        if isinstance(texts, str):
            texts, begins = [texts], begins if isinstance(begins, list) else [begins]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return None
        begins = begins if isinstance(begins, list) and len(begins) == len(texts) else [None] * len(texts)
        score = score_of(value)
        scores = score if isinstance(score, list) and len(score) == len(texts) else [score] * len(texts)
        indices = map(labelled_spans.character, begins)
        known = [_Text(*own) for own in zip(texts, indices, scores, strict=True) if own[0].strip()]
        return known or [_Text(None, score=score)]
    if isinstance(value, list):
        parts = [None if isinstance(item, list) else _texts(item, where) for item in value]
        return None if None in parts else [own for part in parts for own in part or []] or [_Text(None)]
    return None


def _same(one: str, other: str) -> bool:
    return one.strip(_AROUND).casefold() == other.strip(_AROUND).casefold()
