"""Answers that are spans of a context: word spans, the best span, SQuAD's comparison of answers, and the metrics.

Shapes: N rows, W words of one context, P predictions: one per word, and one for "no answer", of all rows.
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

from tinybert_cli.metrics.base import Metric, Statistics, Sums, column
from tinybert_cli.types import Array, Predictions

LONGEST = 64  # words of an answer: 30 in the reference BERT code, but in Chinese words are characters
NULL_THRESHOLD = "null_score_diff_threshold"  # in config.json, as in run_qa.py: abstain if score(null) exceeds the
# score of the best span by more than this
NEVER = 1e4  # the threshold with which the model never abstains

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]|_")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】『』「」…—～·")
_CHINESE = re.compile(rf"([{CJK}])")


@dataclass(frozen=True)
class SpanMetric(Metric):
    """F1 and exact match of SQuAD, for all rows, for answerable and for unanswerable ones; and cross-entropy."""

    labels: Array  # (P, 2) 1 where the gold answer begins and ends, else 0
    contexts: list[str]
    gold: list[list[str]]  # the gold answers of each row; empty: the context has none

    @cached_property
    def references(self) -> list[str]:
        return [answers[0] if answers else "" for answers in self.gold]

    @cached_property
    def row_offsets(self) -> Array:
        """Where the predictions of each row begin (N + 1,)."""
        return np.cumsum([0, *(len(word_spans(context)) + 1 for context in self.contexts)])

    def statistics(self, predictions: Predictions) -> Statistics:
        answers = [normalized(answer) for answer in predictions.values]
        f1 = np.array([overlap(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)])
        exact = np.array(
            [exact_match(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)]
        )
        answerable = np.array([bool(answers) for answers in self.gold])
        loss = [
            -(labels * log_softmax(logits)).sum() / 2
            for labels, logits in zip(self._labels_by_row(), predictions.by_row(), strict=True)
        ]
        return {
            "rows": np.ones((len(f1), 1)),
            "f1": column(f1),
            "exact_match": column(exact),
            "loss": column(loss),
            "answered": column([bool(answer) for answer in answers]),
            "answerable": column(answerable),
            "f1_answerable": column(f1 * answerable),
            "exact_match_answerable": column(exact & answerable),
            "exact_match_unanswerable": column(exact & ~answerable),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows, answerable = sums["rows"][:, 0], sums["answerable"][:, 0]
        metrics = {name: sums[name][:, 0] / rows for name in ("f1", "exact_match", "loss", "answered")}
        if any(self.gold):
            for name in ("exact_match_answerable", "f1_answerable"):
                metrics[name] = sums[name][:, 0] / np.maximum(answerable, 1)
        if not all(self.gold):
            unanswerable = np.maximum(rows - answerable, 1)
            metrics["accuracy_unanswerable"] = sums["exact_match_unanswerable"][:, 0] / unanswerable
        return metrics

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

    def tune_thresholds(self, logits: Array) -> dict[str, Any]:
        """The threshold with the best F1, as `find_all_best_thresh` of SQuAD 2.0's evaluation script.

        If every row has an answer, the model never abstains, as in SQuAD 1.1.
        """
        if all(self.gold):
            return {NULL_THRESHOLD: NEVER}
        differences, gains = np.zeros(len(self.gold)), np.zeros(len(self.gold))
        for index, values in enumerate(Predictions(self.gold, None, logits, self.row_offsets).by_row()):
            log_shares = log_softmax(values)
            first, last, best = best_span(log_shares[1:, 0], log_shares[1:, 1])
            answer = span_text(self.contexts[index], first + 1, last + 1) if np.isfinite(best) else ""
            differences[index] = min(NEVER, float(log_shares[0].sum()) - best)
            gains[index] = overlap(normalized(answer), self._normalized_gold[index]) - float(not self.gold[index])
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

    def _labels_by_row(self) -> Iterator[Array]:
        yield from (self.labels[begin:end] for begin, end in itertools.pairwise(self.row_offsets.tolist()))


def word_spans(text: str) -> Array:
    """Begin and end of each word of a text (W, 2), in characters.

    Words are runs of letters and digits; Chinese and Japanese characters and punctuation marks are words of their own.
    """
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


def span_text(context: str, first: int, last: int) -> str:
    """The text from word `first` to word `last`, counted from 1; empty if `first` is 0, which means no answer."""
    if not first:
        return ""
    words = word_spans(context)
    return context[words[first - 1, 0] : words[last - 1, 1]]


def best_answer(logits: Array) -> tuple[int, int, float]:
    """First word, last word, counted from 1, and probability of a row's answer (W + 1, 2); 0, 0 means no answer."""
    log_shares = log_softmax(logits)
    first, last, best = best_span(log_shares[1:, 0], log_shares[1:, 1])
    null = float(log_shares[0].sum())
    return (0, 0, float(np.exp(null))) if null >= best else (first + 1, last + 1, float(np.exp(best)))


def best_answers(logits: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` most probable answers of a row, as `best_answer` gives the first; no answer is one of them."""
    log_shares = log_softmax(logits)
    candidates = [
        (first + 1, last + 1, score) for first, last, score in best_spans(log_shares[1:, 0], log_shares[1:, 1], count)
    ]
    candidates = sorted([(0, 0, float(log_shares[0].sum())), *candidates], key=lambda answer: -answer[2])[:count]
    return [(first, last, float(np.exp(score))) for first, last, score in candidates]


def best_span(begins: Array, ends: Array) -> tuple[int, int, float]:
    """First word, last word and score of the span with the largest sum of its begin and end scores (W,) each."""
    spans = best_spans(begins, ends, 1)
    return spans[0] if spans else (0, 0, -np.inf)


def best_spans(begins: Array, ends: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` best spans, or as many as there are, best first, as `best_span` gives the first."""
    if not len(begins):
        return []
    beyond = np.concatenate([ends, np.full(LONGEST - 1, -np.inf)])
    sums = (begins[:, None] + np.lib.stride_tricks.sliding_window_view(beyond, LONGEST)).ravel()  # (W · LONGEST,)
    best = [int(sums.argmax())] if count == 1 else np.argsort(-sums, kind="stable")[:count].tolist()
    return [
        (index // LONGEST, index // LONGEST + index % LONGEST, float(sums[index]))
        for index in best
        if np.isfinite(sums[index])
    ]


def log_softmax(logits: Array) -> Array:
    """Over the words of a row (W + 1, 2), for begin and end separately."""
    values = logits.astype(np.float64)
    values -= values.max(0)
    result: Array = values - np.log(np.exp(values).sum(0))
    return result


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
