"""Answers that are a piece of a text: where its words stand, which span is best, and how two answers are compared."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tinybert_cli.types import Array

LONGEST = 64  # words of an answer: 30 in the reference BERT code, but in Chinese words are characters

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]|_")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】『』「」…—～·")
_CHINESE = re.compile(rf"([{CJK}])")


def word_spans(text: str) -> Array:
    """Where the words of a text begin and end (W, 2), in characters: runs of letters and digits, Chinese and Japanese
    characters, and marks, one by one."""
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


def best_span(begins: Array, ends: Array) -> tuple[int, int, float]:
    """First word, last word and score of the best span, by the sum of its numbers at both ends (W,) each."""
    found = best_spans(begins, ends, 1)
    return found[0] if found else (0, 0, -np.inf)


def best_spans(begins: Array, ends: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` best spans, or as many as there are, best first, as `best_span` says the first."""
    if not len(begins):
        return []
    beyond = np.concatenate([ends, np.full(LONGEST - 1, -np.inf)])
    sums = (begins[:, None] + np.lib.stride_tricks.sliding_window_view(beyond, LONGEST)).ravel()  # (W · LONGEST,)
    best = [int(sums.argmax())] if count == 1 else np.argsort(-sums, kind="stable")[:count].tolist()
    return [(place // LONGEST, place // LONGEST + place % LONGEST, float(sums[place])) for place in best
            if np.isfinite(sums[place])]  # fmt: skip


def normalized(answer: str) -> list[str]:
    """The words that count, as the evaluation script of SQuAD has it: no case, punctuation or articles.

    Chinese and Japanese characters are words of their own, and their marks none, as in the script of CMRC 2018.
    """
    plain = _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION))
    if _CHINESE.search(plain):
        plain = _CHINESE.sub(r" \1 ", plain.translate(_CHINESE_PUNCTUATION))
    return plain.split()


def exact(said: Sequence[str], gold: Sequence[Sequence[str]]) -> bool:
    """Whether normalized words are those of one of the gold answers."""
    return any(list(said) == list(answer) for answer in gold)


def overlap(said: Sequence[str], gold: Sequence[Sequence[str]]) -> float:
    """The F1 of normalized words against the gold answer that fits best; no answer is right about no answer alone."""
    return max(_f1(said, answer) for answer in gold)


def _f1(said: Sequence[str], gold: Sequence[str]) -> float:
    if not said or not gold:
        return float(list(said) == list(gold))
    common = sum((Counter(said) & Counter(gold)).values())
    return 2 * common / (len(said) + len(gold))
