"""Texts that occur more than once: with other labels, or on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.inspection.splitting import text_key
from tinybert_cli.inspection.vocabulary import sample_of
from tinybert_cli.label_values import as_text, is_missing
from tinybert_cli.types import Array, Rows
from tinybert_cli.wording import verb

ONE_LABEL = ("text-classification", "multi-label-classification", "token-classification", "regression")
FAR = 0.1  # of the range of a regression target: labels of one text that differ by more contradict each other
SAMPLE = 30_000  # rows whose normalised texts are compared before a stage starts
PART = 1 << 20  # hashes that are compared at a time
EXCERPT = 60  # characters of a text in a message

TRAINING = ("train", "unlabeled")
SCORED = ("validation", "test")


@dataclass(frozen=True)
class Leak:
    """Rows of a split whose text is also in the training rows."""

    exact: int
    similar: int  # not equal, but equal without case, punctuation and spaces
    rows: int  # of the split
    example: tuple[int, int] | None  # a row of the split, and the training row with its text
    sampled: int | None = None  # training rows that were compared for `similar`; None = all


def texts_of(rows: Rows, data: Data) -> Sequence[Hashable]:
    """The text of each row, as a value that can be compared; a pair of texts is one value."""
    columns = [rows.column(name) for name in data.text_columns]
    is_plain = len(columns) == 1 and bool(columns[0]) and isinstance(columns[0][0], str)
    return columns[0] if is_plain else _Texts(columns)


class _Texts(Sequence[Hashable]):
    """Lists of words and pairs of texts as values that can be compared, each made when it is read."""

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, index: int) -> Hashable: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hashable]: ...
    def __getitem__(self, index: int | slice) -> Hashable | list[Hashable]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return _value([column[index] for column in self.columns])

    def __iter__(self) -> Iterator[Hashable]:
        return map(_value, zip(*self.columns, strict=True))


def repeated(rows: Rows, data: Data) -> int:
    """The rows whose text occurs in an earlier row."""
    texts = [text for text in texts_of(rows, data) if not _is_blank(text)]
    return len(texts) - len(set(texts))


def contradictions(rows: Rows, data: Data, task: str) -> list[list[int]]:
    """The rows, by indices, that have the same text and different labels: one list per text.

    Labels of a regression differ if they are further apart than a tenth of the range of all. Empty for tasks in which
    a text may have several answers.
    """
    names = data.label_columns
    if task not in ONE_LABEL or not all(name in rows.columns for name in names):
        return []
    columns = [rows.column(name) for name in names]
    first: dict[Hashable, int] = {}
    again: dict[Hashable, list[int]] = {}
    texts = texts_of(rows, data)
    for index in _maybe_repeated(texts):
        text = texts[index]
        known = first.setdefault(text, index)
        if known != index:
            again.setdefault(text, [known]).append(index)
    differ = _far_apart(columns[0]) if task == "regression" else _different
    result = []
    for text, group in again.items():
        labels = {at: _label_key([column[at] for column in columns]) for at in group}
        labelled = [at for at in group if labels[at] is not None]
        if differ([labels[at] for at in labelled]) and not _is_blank(text):
            result.append(labelled)
    return result


def _maybe_repeated(texts: Sequence[Hashable]) -> list[int]:
    """The indices of the texts whose hash occurs more than once, without the texts in memory."""
    hashes = _hashes(texts)
    ordered = np.sort(hashes)
    return _indices_of(hashes, ordered[1:][ordered[1:] == ordered[:-1]])


def _hashes(texts: Sequence[Hashable]) -> Array:
    return np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts))


def _indices_of(hashes: Array, wanted: Array) -> list[int]:
    """The indices of the hashes that are among others, which are sorted."""
    if not len(wanted):
        return []
    parts = [hashes[begin : begin + PART] for begin in range(0, len(hashes), PART)]
    nearest = (wanted[np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)] for part in parts)
    among = [values == part for values, part in zip(nearest, parts, strict=True)]
    indices: list[int] = np.concatenate(among).nonzero()[0].tolist()
    return indices


def contradiction_warnings(split: str, rows: Rows, data: Data, task: str) -> list[str]:
    """A warning about texts that have several labels."""
    groups = contradictions(rows, data, task)
    if not groups:
        return []
    one, other = _contradicting_pair(groups[0], rows, data)
    what = {"token-classification": "tags", "regression": "values"}.get(task, "labels")
    count = sum(map(len, groups))
    return [
        f"{count:,} of {len(rows):,} rows of {split} have the text of another row but different {what}, such as "
        f"{_locations(rows, one, other)}: {_excerpt(rows, data, one)}; correct the {what}, or "
        "remove these rows"
    ]


def leak(train: Rows, other: Rows, data: Data, *, most: int | None = None, seed: int = 0) -> Leak:
    """The rows of `other` that are also in `train`.

    Args:
        most: training rows whose normalised texts are compared; None = all. Equal texts are always counted in all.
    """
    texts, train_texts = texts_of(other, data), texts_of(train, data)
    hashes, train_hashes = _hashes(texts), _hashes(train_texts)
    index_of: dict[Hashable, int] = {}
    for index in _indices_of(train_hashes, np.sort(hashes)):
        index_of.setdefault(train_texts[index], index)
    maybe = _indices_of(hashes, np.sort(train_hashes))
    exact = [index for index in maybe if texts[index] in index_of and not _is_blank(texts[index])]
    equal = set(exact)
    sample = range(len(train_texts)) if most is None else sample_of(len(train_texts), most, seed)
    compared = range(len(texts)) if most is None else sample_of(len(texts), most, seed)
    others = [index for index in compared if index not in equal and not _is_blank(texts[index])]
    keys: dict[Hashable, list[int]] = {}
    for index in others:
        keys.setdefault(_normalised(texts[index]), []).append(index)
    holders: dict[Hashable, int] = {}
    for index in sample if keys else []:
        key = _normalised(train_texts[index])
        if key in keys:
            holders.setdefault(key, index)
    similar = sum(len(keys[key]) for key in holders)
    example = None
    if exact:
        example = (exact[0], index_of[texts[exact[0]]])
    elif holders:
        key = next(iter(holders))
        example = (keys[key][0], holders[key])
    is_sampled = len(sample) < len(train_texts) or len(compared) < len(texts)
    return Leak(len(exact), similar, len(texts), example, len(sample) if is_sampled else None)


def leak_warnings(name: str, split: str, train: Rows, other: Rows, data: Data, *, most: int | None = None) -> list[str]:
    """A warning if rows that score models also occur in the rows that train them.

    Args:
        name: of the training rows: `train`, `unlabeled`.
        split: of `other`: `validation`, `test`.
        most: see `leak`.
    """
    result = leak(train, other, data, most=most)
    if not result.exact + result.similar or result.example is None:
        return []
    at, at_train = result.example
    source = "the training set" if name == "train" else name
    example = f"such as {other.location(at)}, and {train.location(at_train)}: {_excerpt(other, data, at)}"
    parts = []
    if result.exact:
        parts.append(
            f"{result.exact:,} of {result.rows:,} {split} rows also {verb(result.exact, 'occurs', 'occur')} in {source}"
        )
    if result.similar:
        rest = "" if parts else f" of {result.rows:,} {split}"
        sampled = "" if result.sampled is None else f" (in a sample of {result.sampled:,} rows)"
        what = f"{verb(result.similar, 'differs', 'differ')} from a row of {source} only in case, punctuation or spaces"
        parts.append(f"{result.similar:,}{' more' if parts else ''}{rest} rows {what}{sampled}")
    return [
        f"{', and '.join(parts)}, {example}; {split} scores will be optimistic: remove these rows from one of the two"
    ]


def leaks_between(splits: Mapping[str, Rows], data: Data, *, most: int | None = None) -> Iterator[str]:
    """The warnings of `leak_warnings` about all pairs of splits."""
    for name in (name for name in TRAINING if name in splits):
        for split in (split for split in SCORED if split in splits):
            if all(column in splits[part].columns for part in (name, split) for column in data.text_columns):
                yield from leak_warnings(name, split, splits[name], splits[split], data, most=most)


def _label_key(labels: list[Any]) -> Hashable:
    """The label of a row as a value: 1, 1.0 and "1" are equal."""
    keys = [_key(label) for label in labels]
    return keys[0] if len(keys) == 1 else tuple(keys)


def _key(label: Any) -> Hashable:
    if isinstance(label, list):
        return tuple(map(_key, label))
    return None if is_missing(label) else as_text(label) if isinstance(label, str | bool | int | float) else repr(label)


def _different(labels: Sequence[Hashable]) -> bool:
    return len(set(labels)) > 1


def _far_apart(labels: Sequence[Any]) -> Callable[[Sequence[Hashable]], bool]:
    numbers = [number for label in labels if (number := _as_float(label)) is not None]
    limit = FAR * (max(numbers) - min(numbers)) if numbers else 0.0

    def differ(group: Sequence[Hashable]) -> bool:
        values = [number for label in group if (number := _as_float(label)) is not None]
        return len(values) > 1 and max(values) - min(values) > limit

    return differ


def _as_float(label: Any) -> float | None:
    try:
        return float(str(label).replace(",", "."))
    except ValueError:
        return None


def _contradicting_pair(group: list[int], rows: Rows, data: Data) -> tuple[int, int]:
    """The first row, and the first one after it with another label."""
    names = data.label_columns
    labels = [_label_key([rows.column(name)[index] for name in names]) for index in group]
    return group[0], next(index for index, label in zip(group, labels, strict=True) if label != labels[0])


def _locations(rows: Rows, one: int, other: int) -> str:
    first, second = rows.location(one), rows.location(other)
    file, _, number = second.rpartition(", row ")
    return f"{first} and row {number}" if first.startswith(f"{file}, row ") else f"{first} and {second}"


def _excerpt(rows: Rows, data: Data, index: int) -> str:
    texts = [rows.column(name)[index] for name in data.text_columns]
    whole = " | ".join(" ".join(map(str, text)) if isinstance(text, list) else str(text) for text in texts)
    return repr(whole if len(whole) <= EXCERPT else f"{whole[: EXCERPT - 3].rstrip()}...")


def _value(texts: Sequence[Any]) -> Hashable:
    return _hashable(texts[0]) if len(texts) == 1 else tuple(map(_hashable, texts))


def _hashable(text: Any) -> Hashable:
    return tuple(text) if isinstance(text, list) else text


def _is_blank(text: Hashable) -> bool:
    if isinstance(text, str):
        return not text or text.isspace()
    return all(map(_is_blank, text)) if isinstance(text, tuple) else text is None


def _normalised(text: Hashable) -> Hashable:
    """Without case, punctuation and spaces; numbers matter."""
    if isinstance(text, tuple):
        return tuple(text_key(part, numbers=True) for part in text)
    return text_key(text, numbers=True)
