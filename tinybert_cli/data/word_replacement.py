"""More text to learn from: copies of sentences in which some words give way to others.

The word-by-word replacement of TinyBERT (Jiao et al. 2020, algorithm 1): what a masked language model says of a word in
its sentence, or else its nearest neighbours in a static embedding table. The teacher then labels the copies, so that a
copy whose meaning has changed teaches what it says now.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Near = Mapping[str, Sequence[str]]  # word → its neighbours
Choices = Mapping[int, Sequence[str]]  # the place of a part in its text → the words that it may give way to

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
    known = [word for word in table if not is_protected(word)]
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


def replaceable(parts: Sequence[str]) -> list[int]:
    """The places of the words that may give way: no number, no name (a capital inside a sentence), no negation."""
    opens = True  # whether a word would be the first of its sentence
    found = []
    for place, part in enumerate(parts):
        is_name = part[0].isupper() and not opens
        if not part.isspace():
            opens = part in SENTENCE_ENDS
        if part.isalpha() and not is_name and not is_protected(part.lower()):
            found.append(place)
    return found


def spans(parts: Sequence[str], places: Iterable[int]) -> list[tuple[int, int]]:
    """Where the parts at these places begin and end in their text."""
    ends = list(itertools.accumulate(len(part) for part in parts))
    return [(ends[place] - len(parts[place]), ends[place]) for place in places]


def choices(text: str, near: Near, in_context: Choices | None = None) -> Choices:
    """What each word of the text may give way to: what was said of its place `in_context`, or else its neighbours."""
    parts, said = words(text), in_context or {}
    found = {place: said.get(place) or near.get(parts[place].lower(), ()) for place in replaceable(parts)}
    return {place: others for place, others in found.items() if others}


def copies(
    rows: Sequence[tuple[str, ...]],
    choices: Iterable[Sequence[Choices]],
    *,
    count: int,
    probability: float,
    seed: int,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Up to `count` changed copies of each row, with its position; none is there twice or like an original.

    A row is one text or a pair, whose texts stay together, and has `choices` for each. A word that has any gives way
    with `probability`. What a row becomes depends on `seed`, its place and its choices alone.
    """
    seen = set(rows)
    for index, (row, chosen) in enumerate(zip(rows, choices, strict=True)):
        draw = np.random.default_rng([seed, index])
        split = [words(text) for text in row]
        for _ in range(count):
            texts = zip(split, chosen, strict=True)
            copy = tuple("".join(_changed(parts, others, probability, draw)) for parts, others in texts)
            if copy not in seen:
                seen.add(copy)
                yield index, copy


def _changed(parts: Sequence[str], choices: Choices, probability: float, draw: np.random.Generator) -> Iterator[str]:
    for place, part in enumerate(parts):
        if draw.random() < probability and place in choices:
            other = choices[place][int(draw.integers(len(choices[place])))]
            yield other.capitalize() if part[0].isupper() else other
        else:
            yield part


def is_protected(word: str) -> bool:
    """A word that turns the meaning round, or part of one."""
    return word in NEGATIONS or word.endswith(("n't", "n’t"))


SENTENCE_ENDS = frozenset(".!?。！？\n")
NEGATIONS = frozenset({
    "no", "not", "nor", "never", "none", "nobody", "nothing", "nowhere", "neither", "without", "hardly", "barely",
    "scarcely", "cannot", "不", "没", "未", "无", "非", "别", "莫", "勿", "否",
})  # fmt: skip
