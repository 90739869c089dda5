"""Splits rows into train, validation and test: stratified, seeded, and similar texts in one split."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

FEWEST = 20  # groups of similar rows that can be split
LARGEST = 0.1  # of the rows, in a group; a larger one is joined by too little
MOST_SHARED = 20  # rows that may be joined by one of their texts alone; a text of more pairs is a common phrase

_DIGITS = re.compile(r"\d+")
_NO_LETTERS = re.compile(r"[\W_]+")
_VARIANTS = {chr(code) for code in range(0xFE00, 0xFE10)}  # marks that choose how an emoji is drawn


def text_key(text: object, *, numbers: bool = False) -> str:
    """What two near-identical texts share: no case, punctuation or width of characters, and 0 for every number.

    Args:
        numbers: they are part of the key.
    """
    whole = " ".join(map(str, text)) if isinstance(text, list) else str(text)
    folded = unicodedata.normalize("NFKC", whole).casefold()
    key = " ".join(_NO_LETTERS.sub(_blank, folded).split())
    has_letters = re.search(r"[^\W\d_]", key) is not None
    return (_DIGITS.sub("0", key) if has_letters and not numbers else key) or folded


def _blank(match: re.Match[str]) -> str:
    """Spaces for punctuation; marks that are vowels or tones, as in Hindi and Thai, are part of their word."""
    marks = match[0]
    return " " if marks.isascii() else "".join(letter if _is_part_of_a_word(letter) else " " for letter in marks)


def _is_part_of_a_word(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M") and letter not in _VARIANTS


def groups(rows: Rows, columns: Sequence[str], *, numbers: bool = False) -> list[list[int]]:
    """The rows, by indices, joined where their texts are near-identical.

    Rows with several texts are joined if all of them are, or one of them that few other rows have. Numbers make a
    difference in data where most texts differ in them only.

    Args:
        numbers: they make a difference in any case.
    """
    result = _groups(rows, columns, numbers=numbers)
    if not numbers and max(map(len, result)) > LARGEST * len(rows):
        result = _groups(rows, columns, numbers=True)
    return result


def _groups(rows: Rows, columns: Sequence[str], *, numbers: bool) -> list[list[int]]:
    keys = [[text_key(value, numbers=numbers) for value in rows.column(name)] for name in columns]
    equal = _holders(zip(*keys, strict=True))
    if len(keys) == 1:
        return equal
    shared = [indices for column in keys for indices in _holders(column) if len(indices) <= MOST_SHARED]
    joined = _joined([*equal, *shared], len(rows))
    return joined if max(map(len, joined)) <= LARGEST * len(rows) else equal


def _holders(values: Iterable[Hashable]) -> list[list[int]]:
    """The indices of each different value."""
    holders: dict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        holders[value].append(index)
    return list(holders.values())


def _joined(parts: Iterable[Sequence[int]], count: int) -> list[list[int]]:
    """The indices up to `count`, with those of each part in one group (union-find)."""
    parents = list(range(count))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for part in parts:
        for index in part[1:]:
            parents[root(index)] = root(part[0])
    return _holders(root(index) for index in range(count))


def split(
    grouped: Sequence[Sequence[int]], strata: Sequence[Hashable], shares: Mapping[str, float], *, seed: int
) -> dict[str, list[int]]:
    """The indices of each split, in the order of the rows; what no share covers is `train`.

    Each stratum is divided by the shares as far as its groups allow, and has rows in train. What a stratum gives a
    split too little or too much is made up for by the next ones.

    Args:
        grouped: rows that stay together.
        strata: of each row, for example its label; a group has that of its first row.
        shares: of the rows, by split.

    Raises:
        InputError: there are too few groups, or none of them fits into a split.
    """
    if len(grouped) < FEWEST:
        raise InputError(
            f"{len(grouped)} rows with different texts are too few to split",
            hint=f"{FEWEST} or more are needed, some hundred are useful; or name files: --validation FILE --test FILE",
        )
    shuffled = [list(group) for group in grouped]
    random.Random(seed).shuffle(shuffled)
    by_stratum: dict[Hashable, list[list[int]]] = defaultdict(list)
    for group in shuffled:
        by_stratum[strata[group[0]]].append(group)
    result: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    missing = dict.fromkeys(shares, 0.0)  # rows that each split should have by now, and has not
    for stratum in sorted(by_stratum, key=lambda key: (len(by_stratum[key]), repr(key))):
        members = by_stratum[stratum]
        largest, *rest = sorted(members, key=len, reverse=True)  # stable: equal ones stay shuffled
        result["train"] += largest
        for name, share in shares.items():
            missing[name] += share * sum(map(len, members))
            left = []
            for group in rest:
                if len(group) <= missing[name] + 0.5:
                    result[name] += group
                    missing[name] -= len(group)
                else:
                    left.append(group)
            rest = left
        result["train"] += [index for group in rest for index in group]
    if empty := [name for name in shares if not result[name]]:
        raise InputError(
            f"no rows can be taken out for {' and '.join(empty)}: texts that differ only in case and "
            f"punctuation stay together, and {len(strata):,} rows have only {len(grouped):,} different ones",
            hint="name files: --validation FILE --test FILE",
        )
    return {name: sorted(indices) for name, indices in result.items()}
