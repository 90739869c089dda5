"""SQuAD's comparison of answers, by their words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】『』「」…—～·")
_CHINESE = re.compile(rf"([{CJK}])")


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
