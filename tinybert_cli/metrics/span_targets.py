"""Where a gold answer, or what another tokenizer predicts, is among the tokens of a row; shapes as in `spans`."""

from __future__ import annotations

import numpy as np

from tinybert_cli.metrics.spans import BEGIN, END, WINDOW, over_windows, windows
from tinybert_cli.types import Array

_IMPOSSIBLE = -1e4  # a logit of probability 0, finite so that 0 · log 0 is 0


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
