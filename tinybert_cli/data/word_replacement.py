"""Word-replacement data augmentation (Jiao et al. 2020, algorithm 1).

The candidates for a word are the predictions of a masked language model in its sentence, or the word's nearest
neighbours in a static embedding table. The teacher labels the augmented examples afterwards, so the logits are those of
the new text even if the replacement has changed its meaning.

A text is split into units (words, numbers, whitespace and punctuation); a word's index is its index among them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.types import Array

T = TypeVar("T")
Neighbours = Mapping[str, Sequence[str]]  # word → its nearest neighbours
Candidates = Mapping[int, Sequence[str]]  # index of a word → its replacement candidates

WORD = re.compile(
    r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\d_\u3400-\u9fff\uf900-\ufaff]+(?:['’][^\W\d_]+)?|\d+|\s+|.", re.DOTALL
)
ROWS = 1024  # rows whose augmented examples are in memory at once
CHUNK = 1024  # words whose similarities to the whole table are in memory at once


def split_words(text: str) -> list[str]:
    """Split a text into words, numbers, whitespace and punctuation, nothing dropped; a Chinese character is a word."""
    return WORD.findall(text)


def nearest_neighbours(
    table: Mapping[str, int], embeddings: Tensor, words: Iterable[str], count: int
) -> dict[str, list[str]]:
    """The `count` nearest other words, by cosine similarity, of all `words` that are in the table.

    Args:
        table: word → row of `embeddings`. Protected words are neither looked up nor returned.
        embeddings: (V, H), V rows of hidden size H.
        words: in lower case.
        count: neighbours per word.
    """
    vocabulary = [word for word in table if not is_protected(word)]
    unit = torch.nn.functional.normalize(embeddings[[table[word] for word in vocabulary]].float(), dim=-1)
    index_of = {word: index for index, word in enumerate(vocabulary)}
    queries = sorted({word for word in words if word in index_of})
    neighbours: dict[str, list[str]] = {}
    for begin in range(0, len(queries), CHUNK):
        chunk = queries[begin : begin + CHUNK]
        rows = torch.tensor([index_of[word] for word in chunk])
        similarity = unit[rows] @ unit.T
        similarity[torch.arange(len(rows)), rows] = -2.0  # exclude the word itself
        nearest = similarity.topk(min(count, len(vocabulary) - 1)).indices.tolist()
        neighbours |= {word: [vocabulary[i] for i in indices] for word, indices in zip(chunk, nearest, strict=True)}
    return neighbours


def replaceable_indices(units: Sequence[str]) -> list[int]:
    """Indices of the words that may be replaced: not numbers, names (capitalised mid-sentence) or negations."""
    starts_sentence = True
    indices = []
    for index, unit in enumerate(units):
        is_name = unit[0].isupper() and not starts_sentence
        if not unit.isspace():
            starts_sentence = unit in SENTENCE_ENDS
        if unit.isalpha() and not is_name and not is_protected(unit.lower()):
            indices.append(index)
    return indices


def word_spans(units: Sequence[str], indices: Iterable[int]) -> list[tuple[int, int]]:
    """The character spans (begin, end) of the units at these indices."""
    ends = list(itertools.accumulate(len(unit) for unit in units))
    return [(ends[index] - len(units[index]), ends[index]) for index in indices]


def replacement_candidates(text: str, neighbours: Neighbours, in_context: Candidates | None = None) -> Candidates:
    """The candidates for each replaceable word of a text: those `in_context`, or else its nearest neighbours."""
    units, in_context = split_words(text), in_context or {}
    candidates = {
        index: in_context.get(index) or neighbours.get(units[index].lower(), ()) for index in replaceable_indices(units)
    }
    return {index: words for index, words in candidates.items() if words}


def augment(
    rows: Iterable[tuple[str, ...]],
    candidates: Iterable[Sequence[Candidates]],
    *,
    count: int,
    probability: float,
    seed: int,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Up to `count` augmented examples per row, as (index of the row, texts); no duplicates and no original rows.

    A row depends only on `seed`, its index and its candidates. Of the examples before it only digests are in memory.

    Args:
        rows: one text or a pair of texts each. The texts of a pair are kept together. Read twice, so no iterator.
        candidates: one mapping per text of each row.
        count: augmented examples per row.
        probability: probability of replacing each word that has candidates.
        seed: of the random choices.
    """
    seen = _SeenRows()
    for originals in _parts(rows):
        seen.add_new(originals)
    for part in _parts(enumerate(zip(rows, candidates, strict=True))):
        examples = [
            (index, example)
            for index, (row, choices) in part
            for example in _examples(row, choices, count, probability, np.random.default_rng([seed, index]))
        ]
        yield from itertools.compress(examples, seen.add_new([example for _, example in examples]))


def _examples(
    row: tuple[str, ...], candidates: Sequence[Candidates], count: int, probability: float, random: np.random.Generator
) -> Iterator[tuple[str, ...]]:
    texts = [split_words(text) for text in row]
    for _ in range(count):
        pairs = zip(texts, candidates, strict=True)
        yield tuple("".join(_replaced(units, words, probability, random)) for units, words in pairs)


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(itertools.islice(rest, ROWS)):
        yield part


class _SeenRows:
    """The rows that occurred before, as digests of 8 bytes.

    Two of n different rows have the same digest with a probability of n ** 2 / 2 ** 65, of 20 million 1e-5; the second
    one then counts as seen.
    """

    def __init__(self) -> None:
        self.digests: list[Array] = []  # sorted, each array longer than the next

    def add_new(self, rows: Sequence[tuple[str, ...]]) -> Array:
        """Which of the rows occurred neither before nor earlier among them (N,); all count as seen from now on."""
        digests = np.fromiter(map(_digest, rows), dtype=np.uint64, count=len(rows))
        is_new = np.zeros(len(rows), dtype=bool)
        is_new[np.unique(digests, return_index=True)[1]] = True
        for known in self.digests:
            nearest = np.searchsorted(known, digests).clip(max=len(known) - 1)
            is_new &= known[nearest] != digests
        added = np.sort(digests[is_new])
        while self.digests and len(self.digests[-1]) <= len(added):  # so that there are few arrays
            added = np.sort(np.concatenate([self.digests.pop(), added]), kind="stable")
        if len(added):
            self.digests.append(added)
        return is_new


def _digest(row: tuple[str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=8).digest(), "little")


def is_protected(word: str) -> bool:
    """Whether the word is a negation, or part of one, and must not be replaced."""
    return word in NEGATIONS or word.endswith(("n't", "n’t"))


def _replaced(
    units: Sequence[str], candidates: Candidates, probability: float, random: np.random.Generator
) -> Iterator[str]:
    for index, unit in enumerate(units):
        if random.random() < probability and index in candidates:
            word = candidates[index][int(random.integers(len(candidates[index])))]
            yield word.capitalize() if unit[0].isupper() else word
        else:
            yield unit


SENTENCE_ENDS = frozenset(".!?。！？\n")
NEGATIONS = frozenset({
    "no", "not", "nor", "never", "none", "nobody", "nothing", "nowhere", "neither", "without", "hardly", "barely",
    "scarcely", "cannot", "不", "没", "未", "无", "非", "别", "莫", "勿", "否",
})  # fmt: skip
