"""The answer of a row that has the most probability, although its text occurs several times in the context.

Shapes: P tokens of all rows, see `contexts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinybert_cli.answers.base import AnswerLabels
from tinybert_cli.metrics import spans
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.types import Array

TIE = 1e-6  # of probabilities from logits in float32


def decided_by_majority(labels: AnswerLabels, contexts: Sequence[str]) -> AnswerLabels:
    """The labels so that the decision in each row is the answer with the most probability, all occurrences together.

    An answer that shares its probability among several occurrences could lose to one with less. In such a row one of
    its occurrences has all of it: the one with the largest share, the first of equal ones. Other rows are unchanged.
    """
    logits = labels.logits.copy()
    for row, part, token_spans in _rows(labels):
        logits[part] = _decided(logits[part], token_spans, contexts[row])
    return AnswerLabels(logits, labels.layout, labels.answered)


def rows_with_a_tie(labels: AnswerLabels, contexts: Sequence[str]) -> list[int]:
    """The rows whose two most probable answers are equally probable."""
    rows = []
    for row, part, token_spans in _rows(labels):
        texts = _texts(token_spans, contexts[row])
        largest = sorted(_totals(labels.logits[part], token_spans, texts).values())[-2:]
        if len(largest) == 2 and largest[1] - largest[0] < TIE:
            rows.append(row)
    return rows


def _rows(labels: AnswerLabels) -> Iterator[tuple[int, slice, Array]]:
    """Index, tokens and token spans of each row with several answers, or with several occurrences of one."""
    assert labels.layout is not None and labels.layout.token_spans is not None
    for row, (begin, end) in enumerate(labels.layout.ranges()):
        if end - begin > 1 and labels.answered[row]:
            yield row, slice(begin, end), labels.layout.token_spans[begin:end]


def _decided(logits: Array, token_spans: Array, context: str) -> Array:
    """The logits of one row (P, 2), with the probability of its best answer on one token if need be."""
    texts = _texts(token_spans, context)
    totals = _totals(logits, token_spans, texts)
    largest = max(totals.values())
    best = [text for text, total in totals.items() if total > largest - TIE]
    best = [text for text in best if text] or best  # of equal ones, "no answer" comes last
    answer = spans.best_answer(logits, token_spans)
    if _text(context, answer.begin, answer.end) in best:
        return logits
    probabilities = np.exp(spans.log_softmax(logits, token_spans))
    members = np.array([text == best[0] for text in texts])
    token = int(np.where(members, probabilities.sum(-1), -1.0).argmax())
    total = probabilities[members].sum(0)
    probabilities[members] = 0
    probabilities[token] = total
    result: Array = np.log(probabilities.clip(EPSILON)).astype(logits.dtype)
    return result


def _totals(logits: Array, token_spans: Array, texts: Sequence[str]) -> dict[str, float]:
    """The probability of each text, the mean of begin and end."""
    totals: dict[str, float] = {}
    for text, own in zip(texts, np.exp(spans.log_softmax(logits, token_spans)).mean(-1).tolist(), strict=True):
        totals[text] = totals.get(text, 0.0) + own
    return totals


def _texts(token_spans: Array, context: str) -> list[str]:
    return [_text(context, begin, end) for begin, end in token_spans[:, spans.BEGIN :].tolist()]


def _text(context: str, begin: int, end: int) -> str:
    """The text of a span without case and with single spaces; "" for no answer."""
    return " ".join(context[max(begin, 0) : max(end, 0)].split()).casefold()
