"""Answers that are spans of a context: decoding, SQuAD's comparison of answers, and the metrics.

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
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.errors import InputError
from tinybert_cli.metrics.base import Metric, Statistics, Sums, column
from tinybert_cli.types import Array, Layout, Predictions

LONGEST = 64  # tokens of an answer: 30 in run_qa.py, but in Chinese most tokens are characters
NULL_THRESHOLD = "null_score_diff_threshold"  # in config.json, as in run_qa.py: abstain if score(null) exceeds the
# score of the best span by more than this
NEVER = 1e4  # the threshold with which the model never abstains
UNANSWERABLE = "accuracy_unanswerable"
NO_ANSWER = -1  # in place of the characters of an answer
WINDOW, BEGIN, END = range(3)  # columns of token spans
_IMPOSSIBLE = -1e4  # a logit of probability 0, finite so that 0 · log 0 is 0

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】『』「」…—～·")
_CHINESE = re.compile(rf"([{CJK}])")


@dataclass(frozen=True)
class Answer:
    """A span of the context in characters, or no answer if it is empty."""

    begin: int
    end: int
    score: float  # the sum of two logits
    probability: float


@dataclass(frozen=True)
class SpanMetric(Metric):
    """F1 and exact match of SQuAD, for all rows, for answerable and for unanswerable ones; and cross-entropy."""

    labels: Array  # (N, 2) first character and end of the gold answer, or NO_ANSWER
    contexts: list[str]
    gold: list[list[str]]  # the gold answers of each row; empty: the context has none

    @cached_property
    def references(self) -> list[str]:
        return [answers[0] if answers else "" for answers in self.gold]

    def statistics(self, predictions: Predictions) -> Statistics:
        answers = [normalized(answer) for answer in predictions.values]
        f1 = np.array([overlap(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)])
        exact = np.array(
            [exact_match(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)]
        )
        answerable = np.array([bool(answers) for answers in self.gold])
        losses = [
            _cross_entropy(logits, spans, label)
            for (logits, spans), label in zip(
                by_row(predictions.known_logits, predictions.layout), self.labels, strict=True
            )
        ]
        return {
            "rows": np.ones((len(f1), 1)),
            "f1": column(f1),
            "exact_match": column(exact),
            "loss": column(np.nan_to_num(losses)),
            "rows_with_loss": column(~np.isnan(losses)),
            "answered": column([bool(answer) for answer in answers]),
            "answerable": column(answerable),
            "f1_answerable": column(f1 * answerable),
            "exact_match_answerable": column(exact & answerable),
            "exact_match_unanswerable": column(exact & ~answerable),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows, answerable = sums["rows"][:, 0], sums["answerable"][:, 0]
        metrics = {name: sums[name][:, 0] / rows for name in ("f1", "exact_match", "answered")}
        metrics["loss"] = sums["loss"][:, 0] / np.maximum(sums["rows_with_loss"][:, 0], 1)
        if any(self.gold):
            for name in ("exact_match_answerable", "f1_answerable"):
                metrics[name] = sums[name][:, 0] / np.maximum(answerable, 1)
        if not all(self.gold):
            unanswerable = np.maximum(rows - answerable, 1)
            metrics[UNANSWERABLE] = sums["exact_match_unanswerable"][:, 0] / unanswerable
        return metrics

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        answerable = statistics["answerable"][:, 0]
        if name in ("f1", "exact_match", "answered"):
            return statistics[name][:, 0], np.ones(len(answerable))
        if name in ("f1_answerable", "exact_match_answerable"):
            return statistics[name][:, 0], answerable
        return (statistics["exact_match_unanswerable"][:, 0], 1 - answerable) if name == UNANSWERABLE else None

    def row_scores(self, statistics: Statistics) -> Array:
        return np.asarray(statistics["f1"][:, 0])

    def correct(self, statistics: Statistics) -> Array:
        right: Array = statistics["exact_match"][:, 0] == 1
        return right

    def label_slices(self) -> dict[str, Array]:
        """By the number of words of the gold answer."""
        counts = np.array([len(answers[0]) for answers in self._normalized_gold])
        slices = {
            "none": counts == 0,
            "1 word": counts == 1,
            "2-3 words": (counts > 1) & (counts < 4),
            "longer": counts > 3,
        }
        return {name: rows for name, rows in slices.items() if rows.any()}

    def majority_baseline(self) -> float:
        """The score of never answering."""
        return float(np.mean([not answers for answers in self.gold]))

    def tune_thresholds(self, logits: Array, layout: Layout | None = None) -> dict[str, Any]:
        """The threshold with the best F1, as `find_all_best_thresh` of SQuAD 2.0's evaluation script.

        If every row has an answer, the model never abstains, as in SQuAD 1.1.
        """
        if all(self.gold):
            return {NULL_THRESHOLD: NEVER}
        differences, gains = np.zeros(len(self.gold)), np.zeros(len(self.gold))
        for index, (values, spans) in enumerate(by_row(logits, layout)):
            begin, end, score = next(iter(best_spans(values, spans, 1)), (0, 0, -np.inf))
            answer = normalized(self.contexts[index][begin:end])
            differences[index] = min(NEVER, null_score(values, spans) - score)
            gains[index] = overlap(answer, self._normalized_gold[index]) - float(not self.gold[index])
        order = np.argsort(differences, kind="stable")
        totals = np.concatenate([[0.0], np.cumsum(gains[order])])  # of answering the 0, 1, 2, ... most confident rows
        ordered = differences[order]
        totals[1:-1][ordered[1:] == ordered[:-1]] = -np.inf  # equal differences cannot be separated
        count = int(totals.argmax())
        above = ordered[count] if count < len(order) else ordered[-1] + 2
        below = ordered[count - 1] if count else ordered[0] - 2
        return {NULL_THRESHOLD: float((above + below) / 2)}

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array]:
        assert predictions.confidences is not None
        return predictions.confidences, self.correct(statistics)

    @cached_property
    def _normalized_gold(self) -> list[list[list[str]]]:
        """The gold answers of each row, normalized; one without words for a row without an answer."""
        return [[normalized(answer) for answer in answers] or [[]] for answers in self.gold]


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


# -- targets ---------------------------------------------------------------------------------------------------


def answer_tokens(token_spans: Array, begin: int, end: int) -> list[tuple[int, int]]:
    """For each window of a row (P, 3) the tokens at which the answer begins and ends, counted in the row.

    It is the first token with the first character, and the last token with the last one; [CLS] in a window that does
    not hold the whole answer, and for no answer.
    """
    return [
        (window.start + first, window.start + last)
        for window in windows(token_spans)
        for first, last in [_tokens_in_window(token_spans[window], begin, end, token_spans[-1, WINDOW])]
    ]


def _tokens_in_window(token_spans: Array, begin: int, end: int, last_window: int) -> tuple[int, int]:
    context = np.flatnonzero(token_spans[:, BEGIN] >= 0)
    if begin < 0 or not len(context):
        return 0, 0
    first, last = _positions(token_spans[context], np.array([begin]), np.array([end]), last_window)
    if first[0] < 0 or last[0] < first[0]:
        return 0, 0
    return int(context[first[0]]), int(context[last[0]])


def _positions(context: Array, begins: Array, ends: Array, last_window: int) -> tuple[Array, Array]:
    """The tokens of a window's context (K, 3) at which answers begin and end; -1 for those outside of the window."""
    low = 0 if context[0, WINDOW] == 0 else context[0, BEGIN]
    high = np.inf if context[0, WINDOW] == last_window else context[-1, END]
    first = np.searchsorted(context[:, END], begins, side="right")
    last = np.searchsorted(context[:, BEGIN], ends, side="left") - 1
    return np.where((begins >= low) & (first < len(context)), first, -1), np.where(ends <= high, last, -1)


def transferred(logits: Array, source: Array, target: Array) -> Array:
    """The logits (P, 2) of a row on the tokens of `source` (P, 3), on those of `target`, which other windows or another
    tokenizer made: the same numbers if the tokens are the same.

    The probability of a begin goes to the first token with its character, that of an end to the last token with it. All
    other probability goes to [CLS]: that of special tokens, of the question, and of what is outside of the window.
    """
    if np.array_equal(source, target):
        return logits
    (characters, values), others = over_windows(logits, source)
    result = np.full((len(target), 2), -np.inf)
    for window in windows(target):
        spans = target[window]
        context = np.flatnonzero(spans[:, BEGIN] >= 0)
        missing = np.full(len(characters), -1)
        both = (
            _positions(spans[context], characters[:, 0], characters[:, 1], target[-1, WINDOW])
            if len(context)
            else (missing, missing)
        )
        for number, positions in enumerate(both):
            tokens = np.where(positions >= 0, np.append(context, 0)[positions], 0)
            np.logaddexp.at(result[window, number], tokens, values[:, number])
            result[window.start, number] = np.logaddexp.reduce([result[window.start, number], *others[:, number]])
    return np.where(np.isfinite(result), result, _IMPOSSIBLE).astype(logits.dtype)


def _cross_entropy(logits: Array, token_spans: Array, label: Array) -> float:
    """Mean over begin and end, and over the windows that hold the answer; NaN if no window does."""
    begin, end = label
    tokens = [pair for pair in answer_tokens(token_spans, begin, end) if begin < 0 or token_spans[pair[0], BEGIN] >= 0]
    log_probabilities = log_softmax(logits, token_spans)
    values = [log_probabilities[first, 0] + log_probabilities[last, 1] for first, last in tokens]
    return -float(np.mean(values)) / 2 if values else np.nan


# -- comparison of answers -------------------------------------------------------------------------------------


def normalized(answer: str) -> list[str]:
    """The words of an answer without case, punctuation and articles, as in SQuAD's evaluation script.

    Chinese and Japanese characters are words of their own, without their punctuation, as in CMRC 2018's script.
    """
    plain = _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION))
    if _CHINESE.search(plain):
        plain = _CHINESE.sub(r" \1 ", plain.translate(_CHINESE_PUNCTUATION))
    return plain.split()


def exact_match(answer: Sequence[str], gold: Sequence[Sequence[str]]) -> bool:
    """Whether the normalized words equal those of one of the gold answers."""
    return any(list(answer) == list(reference) for reference in gold)


def overlap(answer: Sequence[str], gold: Sequence[Sequence[str]]) -> float:
    """F1 of the normalized words against the best gold answer; an empty answer is right only if the gold is empty."""
    return max(_f1(answer, reference) for reference in gold)


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    if not answer or not reference:
        return float(list(answer) == list(reference))
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference))
