"""Independent reference for question answering: run_qa.py's decoding and labels, written from their definition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinybert_cli.types import Array, Layout


def word_layout(contexts: Sequence[str]) -> Layout:
    """One window per context: [CLS], which stands for "no answer", and a token for every word and punctuation mark."""
    rows = [
        [(0, -1, -1), *((0, *match.span()) for match in re.finditer(r"\w+|[^\w\s]", context))] for context in contexts
    ]
    spans = np.array([span for row in rows for span in row], dtype=np.int32)
    return Layout(np.cumsum([0, *map(len, rows)]), spans)


def features(tokenizer: Any, question: str, context: str, length: int, stride: int) -> Any:
    """The windows of one example, as the tokenizer makes them."""
    return tokenizer(
        question, context, truncation="only_second", max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip


def context_tokens(encoded: Any, window: int) -> dict[int, tuple[int, int]]:
    """token → its characters, for the tokens of the context."""
    texts = encoded.sequence_ids(window)
    return {token: span for token, span in enumerate(encoded["offset_mapping"][window]) if texts[token] == 1}


def standard_answer(
    encoded: Any, context: str, logits: Sequence[Array], *, longest: int, threshold: float | None
) -> str:
    """The answer from the logits (T, 2) of all windows; `threshold` None: the model never abstains (SQuAD 1.1)."""
    candidates, null = [], []
    for window, values in enumerate(logits):
        null.append(float(values[0].astype(np.float64).sum()))
        own = context_tokens(encoded, window)
        for begin in own:
            for end in own:
                text = context[own[begin][0] : own[end][1]].strip()
                if begin <= end < begin + longest and text:
                    candidates.append((float(values[begin, 0]) + float(values[end, 1]), text))
    if not candidates:
        return ""
    score, text = max(candidates, key=lambda candidate: candidate[0])
    return "" if threshold is not None and min(null) - score > threshold else text


def standard_labels(encoded: Any, begin: int, end: int) -> list[tuple[int, int]]:
    """First and last token of the answer in each window; [CLS] where the window does not hold all of it."""
    labels = []
    for window in range(len(encoded["input_ids"])):
        own = context_tokens(encoded, window)
        first = [token for token, (_, last_character) in own.items() if last_character > begin]
        last = [token for token, (first_character, _) in own.items() if first_character < end]
        inside = own and min(own.values())[0] <= begin and max(b for _, b in own.values()) >= end
        labels.append((first[0], last[-1]) if inside else (0, 0))
    return labels


def oracle_logits(encoded: Any, begin: int, end: int) -> list[Array]:
    """The logits of a model that is always right."""
    result = []
    for window, (first, last) in enumerate(standard_labels(encoded, begin, end)):
        values = np.zeros((len(encoded["input_ids"][window]), 2), dtype=np.float32)
        values[first, 0] = values[last, 1] = 20
        result.append(values)
    return result
