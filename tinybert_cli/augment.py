"""More text to learn from: copies of sentences in which some words give way to their nearest neighbours.

The word-by-word replacement of TinyBERT (Jiao et al. 2020, algorithm 1) with a static embedding table for every word;
the teacher then labels the copies, so that a copy whose meaning has changed teaches what it says now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Near = Mapping[str, Sequence[str]]

WORD = re.compile(
    r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\d_\u3400-\u9fff\uf900-\ufaff]+(?:['’][^\W\d_]+)?|\d+|\s+|.", re.DOTALL
)
CHUNK = 1024  # words whose neighbours are looked for at once


def words(text: str) -> list[str]:
    """The text in pieces that make it up again: words, numbers, spaces and marks; a Chinese character is a word."""
    return WORD.findall(text)


def neighbours(table: Mapping[str, int], vectors: Tensor, wanted: Iterable[str], count: int) -> dict[str, list[str]]:
    """The `count` nearest other words, by cosine, of every wanted word that the table knows.

    Args:
        table: word → row of `vectors` (V, H).
    """
    known = [word for word in table if not _is_kept(word)]
    unit = torch.nn.functional.normalize(vectors[[table[word] for word in known]].float(), dim=-1)
    place = {word: index for index, word in enumerate(known)}
    asked = sorted({word for word in wanted if word in place})
    found: dict[str, list[str]] = {}
    for begin in range(0, len(asked), CHUNK):
        chunk = asked[begin : begin + CHUNK]
        rows = torch.tensor([place[word] for word in chunk])
        closeness = unit[rows] @ unit.T
        closeness[torch.arange(len(rows)), rows] = -2.0  # not the word itself
        nearest = closeness.topk(min(count, len(known) - 1)).indices.tolist()
        found |= {word: [known[index] for index in near] for word, near in zip(chunk, nearest, strict=True)}
    return found


def copies(
    rows: Sequence[tuple[str, ...]], near: Near, *, count: int, probability: float, seed: int
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Up to `count` changed copies of each row, with its position; none is there twice or like an original.

    A row is one text or a pair, whose texts stay together. Each word with neighbours gives way with `probability`;
    numbers, names (capitals inside a sentence) and negations stay. What a row becomes depends on `seed` and its place.
    """
    seen = set(rows)
    for index, row in enumerate(rows):
        draw = np.random.default_rng([seed, index])
        split = [words(text) for text in row]
        for _ in range(count):
            copy = tuple("".join(_changed(parts, near, probability, draw)) for parts in split)
            if copy not in seen:
                seen.add(copy)
                yield index, copy


def _changed(parts: Sequence[str], near: Near, probability: float, draw: np.random.Generator) -> Iterator[str]:
    opens = True  # whether a word would be the first of its sentence
    for part in parts:
        word = part.lower()
        name = part[0].isupper() and not opens
        chosen = draw.random() < probability
        if not part.isspace():
            opens = part in SENTENCE_ENDS
        if chosen and word in near and not name and not _is_kept(word):
            other = near[word][int(draw.integers(len(near[word])))]
            yield other.capitalize() if part[0].isupper() else other
        else:
            yield part


def _is_kept(word: str) -> bool:
    """A word that turns the meaning round, or part of one."""
    return word in NEGATIONS or word.endswith(("n't", "n’t"))


SENTENCE_ENDS = frozenset(".!?。！？\n")
NEGATIONS = frozenset({
    "no", "not", "nor", "never", "none", "nobody", "nothing", "nowhere", "neither", "without", "hardly", "barely",
    "scarcely", "cannot", "不", "没", "未", "无", "非", "别", "莫", "勿", "否",
})  # fmt: skip
