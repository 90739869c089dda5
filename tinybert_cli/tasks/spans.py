"""Answers that are a piece of a text: where its words stand, which span is best, and how two answers are compared."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LONGEST = 30  # words of an answer, as in the reference BERT code

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
    best = (0, 0, -np.inf)
    for length in range(min(LONGEST, len(begins))):
        sums = begins[: len(begins) - length] + ends[length:]
        first = int(sums.argmax())
        if sums[first] > best[2]:
            best = (first, first + length, float(sums[first]))
    return best


def best_spans(begins: Array, ends: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` best spans, as `best_span` says the first, best first."""
    found: list[tuple[int, int, float]] = []
    for length in range(min(LONGEST, len(begins))):
        sums = begins[: len(begins) - length] + ends[length:]
        found += [(int(first), int(first) + length, float(sums[first])) for first in np.argsort(-sums)[:count]]
    return sorted(found, key=lambda one: -one[2])[:count]


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
