"""What the name and the values of a column tell: a known name, a language, tags of words, several labels in a cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tinybert_cli.inspection.column_kinds import Column
from tinybert_cli.tasks.label_lists import list_in_text
from tinybert_cli.types import Rows

SAMPLE = 300  # rows of which lists are compared, or answers looked up
SEPARATORS = ("|", ";", ",")  # of several labels in one cell
MOST_PARTS = 200  # different labels in cells with several
LANGUAGE = re.compile(
    "(?:ar|bg|bn|ca|cs|cy|da|de|el|en|es|et|eu|fa|fi|fr|ga|gl|gu|he|hi|hr|hu|hy|id|is|it|ja|ka|kk|km|kn|ko|lt|lv|mk|ml"
    "|mn|mr|ms|mt|my|nb|ne|nl|nn|no|pa|pl|ps|pt|ro|ru|si|sk|sl|sq|sr|sv|sw|ta|te|th|tl|tr|uk|ur|uz|vi|zh)"
    "(?:[-_][a-z]{2,4})?"
)
TAG = re.compile(r"O|[BIESLUM]-\S+")


def rank(name: str, names: Sequence[str]) -> int:
    """The position of a column's name among well-known names, `ticket_label` after `label`; their number if unknown."""
    lower = name.lower()
    if lower in names:
        return names.index(lower)
    parts = re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return min((len(names) + names.index(part) for part in parts if part in names), default=2 * len(names))


def best_named(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    """The column with the best of these names; None if no column has one."""
    best = min(columns, key=lambda column: rank(column.name, names), default=None)
    return best if best is not None and rank(best.name, names) < 2 * len(names) else None


def is_language(name: str) -> bool:
    return LANGUAGE.fullmatch(name.lower()) is not None


def have_same_lengths(rows: Rows, words: str, tags: str) -> bool:
    pairs = list(zip(rows.column(words), rows.column(tags), strict=True))[:SAMPLE]
    known = [(one, other) for one, other in pairs if isinstance(one, list) and isinstance(other, list)]
    return bool(known) and all(len(one) == len(other) for one, other in known)


def are_words(values: Sequence[Any]) -> bool:
    return all(isinstance(word, str) for row in values[:SAMPLE] if isinstance(row, list) for word in row)


def are_tags(values: Sequence[Any]) -> bool:
    """Whether all values are tags such as O and B-PER: lists of them, such lists as text, or one or more in a cell."""
    tags: set[str] = set()
    for value in values[:SAMPLE]:
        items: Any = list_in_text(value.strip()) if isinstance(value, str) else value
        if items is None:
            items = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else []
        if not isinstance(items, list) or not all(isinstance(item, str) and TAG.fullmatch(item) for item in items):
            return False
        tags.update(items)
    return "O" in tags and len(tags) > 1


def tag_rank(column: Column) -> tuple[bool, bool, int]:
    """Entities before parts of speech, then by name, then the last column."""
    prefixed = any(TAG.fullmatch(item) and item != "O" for item in column.counts)
    return prefixed, "ner" in column.name.lower(), -rank(column.name, ("label", "labels", "tags", "tag"))


def labels_in_cells(column: Column, given: str | None, *, wanted: bool = False) -> tuple[str, int] | None:
    """The separator of several labels in the cells of a column, the given one if any, and how many labels there are.

    Args:
        wanted: the user wants several labels per row; else a twentieth of the cells must have several.
    """
    for separator in SEPARATORS if given is None else (given,):
        parts: Counter[str] = Counter()
        several = 0
        for cell, count in column.counts.items():
            labels = [part.strip() for part in cell.split(separator) if part.strip()]
            parts.update(dict.fromkeys(labels, count))
            several += count * (len(labels) > 1)
        words = max((len(part.split()) for part in parts), default=0)
        few = 1 < len(parts) <= min(MOST_PARTS, max(2, column.filled // 3)) and words <= 4
        known = given is not None or separator != ","  # a comma may be part of a name, as of a city
        sure = known or len(parts) <= column.distinct
        enough = (several > 0 or given is not None) if wanted else several * 20 >= column.filled
        if few and sure and enough:
            return separator, len(parts)
    return None
