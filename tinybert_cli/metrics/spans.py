"""Answers that are spans of a context: the tokens of a row, and how answers are decoded from their logits.

A model predicts at every token of a window, special tokens and the question included, how likely the answer begins and
ends there; the first token of a window, [CLS], stands for "no answer". Answers are decoded as by run_qa.py of
transformers: the two tokens of the context with the largest sum of logits, of all windows; "no answer" has the smallest
sum at [CLS] of all windows.

Shapes: N rows, P tokens of all windows of one row or of all rows, K tokens of a context. Token spans (P, 3) give for
each token its window, counted from 0 in each row, the first character of an answer that begins at it, and the end of an
answer that ends at it, without white space; -1 for tokens that are not of the context.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinybert_cli.errors import InputError
from tinybert_cli.types import Array, Layout

LONGEST = 64  # tokens of an answer: 30 in run_qa.py, but in Chinese most tokens are characters
NO_ANSWER = -1  # in place of the characters of an answer
WINDOW, BEGIN, END = range(3)  # columns of token spans


@dataclass(frozen=True)
class Answer:
    """A span of the context in characters, or no answer if it is empty."""

    begin: int
    end: int
    score: float  # the sum of two logits
    probability: float


def by_row(logits: Array, layout: Layout | None) -> Iterator[tuple[Array, Array]]:
    """The logits (P, 2) and token spans (P, 3) of each row."""
    assert layout is not None
    ranges = zip(layout.ranges(), token_spans_by_row(layout), strict=True)
    yield from ((logits[begin:end], spans) for (begin, end), spans in ranges)


def token_spans_by_row(layout: Layout) -> Iterator[Array]:
    """The token spans (P, 3) of each row.

    Raises:
        InputError: there are none, as in label datasets of older versions, whose logits belong to words.
    """
    if layout.token_spans is None:
        raise InputError(
            "the logits of the label dataset belong to words, as in older versions of tinybert, not to tokens",
            hint="run gen-soft-labels again",
        )
    yield from (layout.token_spans[begin:end] for begin, end in layout.ranges())


# -- decoding --------------------------------------------------------------------------------------------------


def best_answer(logits: Array, token_spans: Array) -> Answer:
    """The answer of a row (P, 2)."""
    return best_answers(logits, token_spans, 1)[0]


def best_answers(logits: Array, token_spans: Array, count: int) -> list[Answer]:
    """The `count` best answers of a row (P, 2), best first; no answer is one of them."""
    null, normalizer = null_score(logits, token_spans), _log_normalizer(logits, token_spans)
    answers = [*best_spans(logits, token_spans, count), (0, 0, null)]
    answers = sorted(answers, key=lambda answer: -answer[2])[:count]  # of equal ones, "no answer" comes last
    return [Answer(begin, end, score, float(np.exp(score - normalizer))) for begin, end, score in answers]


def best_spans(logits: Array, token_spans: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` best spans of a row, or as many as there are: begin and end in characters, and sum of logits."""
    spans: dict[tuple[int, int], float] = {}
    for window in windows(token_spans):
        for begin, end, score in _best_spans_of_window(logits[window], token_spans[window], count):
            spans[begin, end] = max(score, spans.get((begin, end), -np.inf))  # windows overlap
    return sorted(((*span, score) for span, score in spans.items()), key=lambda span: -span[2])[:count]


def null_score(logits: Array, token_spans: Array) -> float:
    """The score of "no answer" for a row (P, 2)."""
    return float(logits[_null_position(logits, token_spans)].astype(np.float64).sum())


def windows(token_spans: Array) -> list[slice]:
    """The tokens of each window of a row (P, 3)."""
    starts = [0, *(np.flatnonzero(np.diff(token_spans[:, WINDOW])) + 1).tolist(), len(token_spans)]
    return [slice(begin, end) for begin, end in itertools.pairwise(starts)]


def no_answer_positions(layout: Layout | None) -> Array:
    """The first token of each window of all rows."""
    assert layout is not None
    rows = zip(layout.row_offsets.tolist(), token_spans_by_row(layout), strict=False)
    return np.array([begin + window.start for begin, spans in rows for window in windows(spans)], dtype=np.int64)


def _best_spans_of_window(logits: Array, token_spans: Array, count: int) -> list[tuple[int, int, float]]:
    """More than `count`, since a text may occur several times: a character may have several tokens."""
    context = token_spans[:, BEGIN] >= 0
    if not context.any():
        return []
    values, begins, ends = logits[context].astype(np.float64), token_spans[context, BEGIN], token_spans[context, END]
    beyond = np.concatenate([values[:, 1], np.full(LONGEST - 1, -np.inf)])
    view = np.lib.stride_tricks.sliding_window_view
    sums = values[:, :1] + view(beyond, LONGEST)  # (K, LONGEST)
    sums[view(np.concatenate([ends, np.zeros(LONGEST - 1, dtype=ends.dtype)]), LONGEST) <= begins[:, None]] = -np.inf
    flat = sums.ravel()
    best = [int(flat.argmax())] if count == 1 else np.argsort(-flat, kind="stable")[: 4 * count].tolist()
    return [
        (int(begins[index // LONGEST]), int(ends[index // LONGEST + index % LONGEST]), float(flat[index]))
        for index in best
        if np.isfinite(flat[index])
    ]


def _null_position(logits: Array, token_spans: Array) -> int:
    """The first token of the window whose score of "no answer" is the smallest."""
    starts: list[int] = [window.start for window in windows(token_spans)]
    return min(starts, key=lambda first: float(logits[first].sum()))


def _log_normalizer(logits: Array, token_spans: Array) -> float:
    """The log of the sum over all begins and ends of a row, so that probabilities are exp(score - it).

    With a single window it is the sum of the two log-sum-exp over the window, as in the loss.
    """
    context, others = over_windows(logits, token_spans)
    return float(_logsumexp(np.concatenate([context[1], others])).sum())


def over_windows(logits: Array, token_spans: Array) -> tuple[tuple[Array, Array], Array]:
    """One distribution for a row (P, 2), in two parts: the tokens of the context, and those around it.

    Of the context begin and end (K, 2) and logits (K, 2) of each token; one in several windows has its largest logits.
    Of the others the logits in the window with the smallest score of "no answer", [CLS] first.
    """
    context = token_spans[:, BEGIN] >= 0
    characters, values = token_spans[context, BEGIN:], logits[context].astype(np.float64)
    null = _null_position(logits, token_spans)
    if token_spans[-1, WINDOW] > 0:
        characters, inverse = np.unique(characters, axis=0, return_inverse=True)
        largest = np.full((len(characters), 2), -np.inf)
        np.maximum.at(largest, inverse.ravel(), values)
        values = largest
    others = logits[~context & (token_spans[:, WINDOW] == token_spans[null, WINDOW])].astype(np.float64)
    return (characters, values), others


def log_softmax(logits: Array, token_spans: Array) -> Array:
    """Over the tokens of each window of a row (P, 2), for begin and end separately."""
    values = logits.astype(np.float64)
    for window in windows(token_spans):
        values[window] -= _logsumexp(values[window])
    return values


def _logsumexp(values: Array) -> Array:
    """Over the first axis."""
    largest = values.max(0)
    result: Array = largest + np.log(np.exp(values - largest).sum(0))
    return result
