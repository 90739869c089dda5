"""Types that several parts share: arrays, rows, encoded rows, batches and predictions. Nothing here imports torch.

Shapes: N rows, W windows (of most tasks one per row), T tokens, P predictions (of most tasks one per row), C numbers of
one prediction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tinybert_cli.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, "Tensor"]
"""Inputs and targets of one step: "input_ids", "attention_mask" (B, T), 0 where there is padding; "positions" (P,),
where predictions are read if a window has several; of sequence-to-sequence models "decoder_input_ids",
"decoder_attention_mask" (B, U), the targets one step behind, and "positions" among the B * U tokens; "labels",
"label_weights" (P, ...); "teacher_logits" (P, C)."""
ModelOutputs = Mapping[str, Any]
"""Outputs of a model: "logits" (P, C); "embeddings" (B, T, H), the input of the first layer; and, per compared layer,
"hidden_states" (B, T, H), "scores" (B, A, T, T), which are QK^T / sqrt(D) before softmax with what the family adds for
positions, or NOT_ATTENDED, "queries", "keys", "values" (B, A, T, D)."""

EXTRA_TOKENS = 10  # that a translation may have beyond its share of the source
NOT_ATTENDED = -65504.0  # the score of a token that a local layer does not see; the lowest number of float16
NO_LABEL = -100  # in place of a class index where there is none, as in torch


@dataclass(frozen=True)
class Rows:
    """Rows of one split, column by column, and where each came from."""

    columns: dict[str, list[Any]]  # or, of large files, `data.StoredColumn`, which reads like a list
    origins: tuple[tuple[str, int], ...]  # (file or dataset, number of its rows), in order
    class_names: Mapping[str, list[str]] = field(default_factory=dict)  # column → its classes, if the data names them
    selected: Sequence[int] | Array | None = None  # indices of these rows in their origins; None = all

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column(self, name: str) -> list[Any]:
        """One column.

        Raises:
            InputError: there is no such column; lists the columns that exist.
        """
        if name not in self.columns:
            where = ", ".join(origin for origin, _ in self.origins)
            raise InputError(
                f"no column '{name}' in {where}",
                hint=self.column_hint(name),
            )
        return self.columns[name]

    def column_hint(self, name: str) -> str:
        """The columns that there are, after the one whose name is most like this one."""
        here = f"columns here: {', '.join(self.columns)}"
        near = nearest(name, self.columns)
        return f"{near}; {here}" if near else here

    def location(self, index: int) -> str:
        """`file, row 17` for an error about row `index`; rows count from 1."""
        index = index if self.selected is None else self.selected[index]
        for origin, count in self.origins:
            if index < count:
                return f"{origin}, row {index + 1}"
            index -= count
        raise IndexError(index)

    def head(self, count: int | None) -> Rows:
        """The first `count` rows, or all."""
        return self if count is None or count >= len(self) else self.select(range(count))

    def select(self, indices: Sequence[int]) -> Rows:
        """Only these rows; errors about them still name their original location."""
        columns = {name: _selected(values, indices) for name, values in self.columns.items()}
        if isinstance(indices, range) and self.selected is None:
            return Rows(columns, self.origins, self.class_names, indices)
        selected = np.asarray(indices, dtype=np.int64)
        if isinstance(self.selected, range):
            selected = self.selected.start + self.selected.step * selected
        elif self.selected is not None:
            selected = np.asarray(self.selected)[selected]
        return Rows(columns, self.origins, self.class_names, selected)


def _selected(values: Any, indices: Sequence[int]) -> Any:
    return [values[index] for index in indices] if isinstance(values, list) else values.select(indices)


@dataclass(frozen=True)
class Layout:
    """Which predictions each row has, for tasks with several per row, and where their tokens are."""

    row_offsets: Array  # (N + 1,) where the predictions of each row begin
    token_spans: Array | None = None  # (P, 3), see `metrics.spans`

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Begin and end of the predictions of each row."""
        yield from itertools.pairwise(self.row_offsets.tolist())

    def select(self, rows: Array) -> Layout:
        """Of these rows (indices), in this order."""
        counts = lengths_at(self.row_offsets, rows)
        spans = None if self.token_spans is None else self.token_spans[concatenated_ranges(self.row_offsets, rows)]
        return Layout(np.concatenate([[0], np.cumsum(counts)]), spans)

    def part(self, begin: int, end: int) -> Layout:
        """Of the rows from `begin` to `end`."""
        first, last = self.row_offsets[[begin, end]]
        spans = None if self.token_spans is None else self.token_spans[first:last]
        return Layout(self.row_offsets[begin : end + 1] - first, spans)


@dataclass(frozen=True)
class Encoded:
    """Tokenized rows, unpadded, in flat arrays.

    Most tasks cut a long row and make one prediction per row: W = N = P, and the optional fields are None.
    """

    tokens: Mapping[str, tuple[Array, int]]  # name → all values, concatenated (ΣT,), and the value of padding
    offsets: Array  # (W + 1,) where the tokens of each window begin
    truncated: int  # rows that were longer than max_seq_length, or whose question was longer than half of it
    empty: list[int]  # rows without any text
    positions: Array | None = None  # (P,) the token of its window that is read; with `decoder`, of its target
    window_offsets: Array | None = None  # (W + 1,) where the predictions of each window begin
    layout: Layout | None = None  # which predictions each row has
    row_windows: Array | None = None  # (N + 1,) where the windows of each row begin, with `layout`
    decoder: tuple[Array, int] | None = None  # decoder_input_ids (P,) of known targets, and the value of padding
    labels: Array | None = None  # (P,) the target tokens, one step ahead of `decoder`
    rows: Array | None = None  # (W,) the row of each window, if some rows are left out; None: all, in their order

    @property
    def cuts_questions(self) -> bool:
        """Whether `truncated` counts questions: their contexts are split into windows."""
        return self.layout is not None and self.layout.token_spans is not None

    def part(self, begin: int, end: int) -> Encoded | None:
        """The rows from `begin` to `end`, without their warnings; None if it is unknown which tokens are theirs."""
        of_pairs = (self.decoder, self.labels, self.rows)
        of_several = (self.layout, self.window_offsets, self.positions, self.row_windows)
        if all(field is None for field in (*of_pairs, *of_several)):
            return Encoded(*self._windows(begin, end), truncated=0, empty=[])
        if any(field is not None for field in of_pairs):
            return None
        if self.layout is None or self.window_offsets is None or self.positions is None or self.row_windows is None:
            return None
        windows, (first, last) = self.row_windows[[begin, end]], self.layout.row_offsets[[begin, end]]
        return Encoded(
            *self._windows(*windows),
            truncated=0,
            empty=[],
            positions=self.positions[first:last],
            window_offsets=self.window_offsets[windows[0] : windows[1] + 1] - first,
            layout=self.layout.part(begin, end),
            row_windows=self.row_windows[begin : end + 1] - windows[0],
        )

    def _windows(self, begin: int, end: int) -> tuple[dict[str, tuple[Array, int]], Array]:
        """`tokens` and `offsets` of these windows."""
        first, last = int(self.offsets[begin]), int(self.offsets[end])
        tokens = {name: (values[first:last], padding) for name, (values, padding) in self.tokens.items()}
        return tokens, self.offsets[begin : end + 1] - first


@dataclass(frozen=True)
class Search:
    """How translations are generated."""

    beams: int = 4  # 1 = greedy
    keep: int = 1  # best translations of each row, at most `beams`
    length_penalty: float = 1.0  # the score of a hypothesis is divided by its length to this power
    max_length_factor: float = 2.0  # a translation has at most factor * source tokens + 10 tokens
    max_target_length: int = 128  # ... and at most so many, the end token included

    def limit(self, source_tokens: int) -> int:
        """The most target tokens, the end token included, for a source of so many tokens."""
        return min(self.max_target_length, int(self.max_length_factor * source_tokens) + EXTRA_TOKENS)


@dataclass(frozen=True)
class Hypothesis:
    """One generated translation."""

    ids: tuple[int, ...]  # target tokens without start, language code, end and padding
    score: float  # log-probability divided by length ** length_penalty; the end token counts
    finished: bool  # whether it ended by itself; else it was cut at the limit


class Translator(Protocol):
    """A model that translates token ids, whatever runs it."""

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        """For each source (its special tokens included) the `search.keep` best hypotheses, best first."""


class ScoringTranslator(Translator, Protocol):
    """A translator that also scores translations of others."""

    def score(
        self, sources: Sequence[Sequence[int]], translations: Sequence[Hypothesis], search: Search
    ) -> list[float]:
        """What its own hypothesis would have as `score`, were it the given translation, one of each source."""


class Examples(Protocol):
    """Examples that come as batches, such as `data.Examples`."""

    @property
    def prediction_count(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Batch: ...
    def prediction_indices(self, indices: Sequence[int]) -> Array: ...


@dataclass(frozen=True)
class Predictions:
    """Predictions for N rows: one value per row and, where the task has them, confidences and logits.

    A value is whatever the task predicts: a class name, a list of labels, a number, a list of tags, a text.
    """

    values: Sequence[Any]  # (N,)
    confidences: Array | None = None  # (N,)
    logits: Array | None = None  # (P, C), thresholds applied
    layout: Layout | None = None  # which of `logits` belong to which row; None: one each
    spans: Array | None = None  # (N, 2) first and last character of each value, if it is a span of a context
    cut: Array | None = None  # (N,) whether a generated text ended at its limit instead of by itself

    def __len__(self) -> int:
        return len(self.values)

    @property
    def known_logits(self) -> Array:
        """The logits, for tasks whose predictions always have them."""
        if self.logits is None:
            raise ValueError("these predictions have no logits")
        return self.logits

    def by_row(self) -> Iterator[Array]:
        """The logits of each row (P of that row, C)."""
        if self.layout is None:
            yield from self.known_logits[:, None]
        else:
            yield from (self.known_logits[begin:end] for begin, end in self.layout.ranges())


def padded(tokens: Mapping[str, tuple[Array, int]], offsets: Array, windows: Array) -> dict[str, Array]:
    """These windows as one batch, padded to the longest: attention_mask, input_ids and so on, (B, T) each."""
    lengths = lengths_at(offsets, windows)
    mask = np.arange(lengths.max()) < lengths[:, None]
    token_indices = concatenated_ranges(offsets, windows)
    batch = {"attention_mask": mask.astype(np.int64)}
    for name, (values, padding) in tokens.items():
        batch[name] = np.full(mask.shape, padding, dtype=np.int64)
        batch[name][mask] = values[token_indices]
    return batch


def lengths_at(offsets: Array, indices: Array) -> Array:
    """`np.diff(offsets)[indices]`, without reading all of the offsets: there may be millions."""
    lengths: Array = offsets[indices + 1] - offsets[indices]
    return lengths


def concatenated_ranges(offsets: Array, indices: Array) -> Array:
    """The integers from offsets[i] to offsets[i + 1], for each i of `indices`, concatenated."""
    if not len(indices):
        return np.zeros(0, dtype=np.int64)
    begins = offsets[indices]
    counts = offsets[indices + 1] - begins
    ends = np.cumsum(counts)
    ranges: Array = np.arange(ends[-1]) + np.repeat(begins - ends + counts, counts)
    return ranges


def first_infinite_row(logits: Array, layout: Layout | None) -> int | None:
    """The first row with a logit that is NaN or infinite, of logits (P, C); None if all are finite."""
    if not len(logits):
        return None
    infinite = ~np.isfinite(logits).reshape(len(logits), -1).all(-1)
    if not infinite.any():
        return None
    prediction = int(infinite.argmax())
    return prediction if layout is None else int(np.searchsorted(layout.row_offsets, prediction, side="right")) - 1
