"""What is suspicious about rows: texts that a model cannot read, contradictory labels, rows in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli import tasks
from tinybert_cli.config import Data
from tinybert_cli.escaping import printable
from tinybert_cli.inspection.splitting import text_key
from tinybert_cli.label_values import as_text, is_missing
from tinybert_cli.types import Encoded, Rows

MOST_UNKNOWN = 0.05  # share of unknown tokens without a warning
LONGEST_TEXT = 60  # characters of a text in a message

_CONTRADICTED = ("class", "classes")  # output types for which two labels of one text contradict each other


def unknown_share(encoded: Encoded, tokenizer: Any) -> float:
    """The share of unknown tokens, special tokens not counted; 0 if the tokenizer has none, as with bytes."""
    ids = encoded.tokens["input_ids"][0]
    special = np.isin(ids, np.array(tokenizer.all_special_ids))
    unknown = 0 if tokenizer.unk_token_id is None else int(np.count_nonzero(ids == tokenizer.unk_token_id))
    tokens = len(ids) - int(np.count_nonzero(special)) + unknown
    return unknown / tokens if tokens else 0.0


def unknown_tokens(split: str, encoded: Encoded, tokenizer: Any, model: str) -> Iterator[str]:
    """A warning if the vocabulary lacks many tokens of the texts, as with a language that the model does not have."""
    share = unknown_share(encoded, tokenizer)
    if share > MOST_UNKNOWN:
        yield (
            f"{share:.0%} of the tokens of {split} are unknown to {model} ({tokenizer.unk_token}), which cannot read "
            "them; start from a model for the language of these texts"
        )


def contradictions(rows: Rows, data: Data, task: tasks.Task) -> Iterator[str]:
    """A warning if rows with the same text have different labels, of which at most one can be learned."""
    column = data.label_column_name
    if not isinstance(task, tasks.PredictionTask) or task.output_type not in _CONTRADICTED:
        return
    if not isinstance(column, str) or column not in rows.columns:
        return
    by_text: dict[tuple[Any, ...], dict[Hashable, int]] = defaultdict(dict)  # text → label → its first row
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for index, (text, label) in enumerate(zip(_texts(rows, data), rows.column(column), strict=True)):
        if not is_missing(label):
            by_text[text].setdefault(_label(label), index)
            counts[text] += 1
    conflicting = {text: labels for text, labels in by_text.items() if len(labels) > 1}
    if conflicting:
        text, labels = next(iter(conflicting.items()))
        total = sum(counts[one] for one in conflicting)
        (label, row), (other, second) = list(labels.items())[:2]
        yield (
            f"{total:,} rows have the text of a row with another label ({len(conflicting):,} texts): "
            f"'{_cropped(text)}' is {_as_line(label)} in {rows.location(row)}, and {_as_line(other)} in "
            f"{rows.location(second)}; correct or remove them"
        )


def leaks(splits: Mapping[str, Rows], data: Data) -> Iterator[str]:
    """A warning for each two splits that share texts, or texts that differ only in case, marks and numbers."""
    exact = {name: list(_texts(rows, data)) for name, rows in splits.items()}
    similar = {name: [tuple(map(text_key, text)) for text in texts] for name, texts in exact.items()}
    names = list(splits)
    for at, name in enumerate(names):
        for other in names[at + 1 :]:
            same = _shared(exact[name], exact[other])
            alike = _shared(similar[name], similar[other])
            if not alike:
                continue
            first = min(same or alike)
            count, others = len(exact[other]), len(alike) - len(same)
            if not same:
                shared = f"{others:,} of {count:,} rows of {other} are in {name} except for case, marks or numbers"
            else:
                more = f", and {others:,} except for case, marks or numbers" if others else ""
                shared = f"{len(same):,} of {count:,} rows of {other} are also in {name}{more}"
            yield (
                f"{shared}: for example '{_cropped(exact[other][first])}' in {splits[other].location(first)}; scores "
                f"on {other} will be optimistic, so remove them from one of the two"
            )


def repeated(split: str, rows: Rows, data: Data) -> Iterator[str]:
    """A remark on rows whose text an earlier row has."""
    texts = list(_texts(rows, data))
    count = len(texts) - len(set(texts))
    if count:
        yield f"{count:,} of {len(rows):,} rows of {split} repeat the text of an earlier row"


def _shared(one: Sequence[Hashable], other: Sequence[Hashable]) -> set[int]:
    """The indices in `other` of what is also in `one`."""
    known = set(one)
    return {index for index, text in enumerate(other) if text in known}


def _texts(rows: Rows, data: Data) -> Iterator[tuple[Any, ...]]:
    """The texts of each row; a list of words as a tuple."""
    for texts in zip(*(rows.column(name) for name in data.text_columns), strict=True):
        yield tuple(tuple(text) if isinstance(text, list) else text for text in texts)


def _label(value: Any) -> Hashable:
    return tuple(map(as_text, value)) if isinstance(value, list) else as_text(value)


def _as_line(label: Hashable) -> str:
    return _cropped(label if isinstance(label, tuple) else (label,))


def _cropped(text: Any) -> str:
    whole = " | ".join(" ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in text)
    line = printable(whole)
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}..."
