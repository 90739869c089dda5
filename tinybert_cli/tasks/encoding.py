"""Text columns as token ids: texts and pairs, cut to `max_seq_length`; what tokenizers add around a text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.scratch_files import PART, GrowingArray
from tinybert_cli.tasks.tokenizer_file import cut_encodings
from tinybert_cli.types import Array, Encoded, Layout, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1000  # rows that are tokenized in one call
_FIELDS = {"input_ids": "ids", "token_type_ids": "type_ids"}  # of an encoding of `tokenizers`


def text_columns_of(rows: Rows, data: Data) -> list[list[str]]:
    """The text columns.

    Raises:
        InputError: a column is missing, or a row is not text.
    """
    columns = [rows.column(name) for name in data.text_columns]
    for name, column in zip(data.text_columns, columns, strict=True):
        for index, value in enumerate(column):
            if not isinstance(value, str):
                raise InputError(f"'{name}': expected text, found {value!r}", where=rows.location(index))
    return columns


class TokenArrays:
    """The tokens of windows, unpadded, in flat arrays that grow chunk by chunk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self._padding = {name: value for name, value in padding.items() if name in tokenizer.model_input_names}
        self._values = {name: GrowingArray(np.int32 if name == "input_ids" else np.int8) for name in self._padding}
        self._lengths = GrowingArray(np.int64)

    def append(self, windows: Mapping[str, Sequence[Sequence[int]]]) -> list[int]:
        """Appends windows as a tokenizer returns them, name → the numbers of each; returns their lengths."""
        lengths = list(map(len, windows["input_ids"]))
        self._lengths.append(lengths)
        for name, values in self._values.items():
            flat = itertools.chain.from_iterable(windows[name])
            values.append(np.fromiter(flat, dtype=np.int32, count=sum(lengths)))
        return lengths

    def append_texts(self, windows: Sequence[Array]) -> None:
        """Appends the ids of windows over one text each, whose token types are 0."""
        self._lengths.append(list(map(len, windows)))
        ids = np.concatenate([np.zeros(0, dtype=np.int32), *windows])
        for name, values in self._values.items():
            values.append(ids if name == "input_ids" else np.zeros(len(ids), dtype=np.int8))

    def finish(self) -> tuple[dict[str, tuple[Array, int]], Array]:
        """`tokens` and `offsets` (W + 1,) of `Encoded`."""
        tokens = {name: (values.finish(), self._padding[name]) for name, values in self._values.items()}
        return tokens, starts(self._lengths.finish())


def starts(counts: Array) -> Array:
    """Where each part begins in a flat array, and its end (N + 1,), from the lengths of the parts (N,)."""
    result, total = GrowingArray(np.int64), 0
    result.append([0])
    for begin in range(0, len(counts), PART):
        ends = total + np.cumsum(counts[begin : begin + PART])
        result.append(ends)
        total = int(ends[-1])
    return result.finish()


def encode_texts(rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A text or a pair of texts per row, cut to `max_seq_length`: one window and one prediction each."""
    texts = text_columns_of(rows, data)
    arrays, truncated, empty = TokenArrays(tokenizer), 0, []
    for begin in range(0, len(rows), _CHUNK):
        part = [column[begin : begin + _CHUNK] for column in texts]
        encodings = cut_encodings(tokenizer, part, data.max_seq_length)
        arrays.append({name: [getattr(one, field) for one in encodings] for name, field in _FIELDS.items()})
        truncated += sum(bool(one.overflowing) for one in encodings)
        empty += [begin + row for row, texts_of_row in enumerate(zip(*part, strict=True)) if _are_blank(texts_of_row)]
    tokens, offsets = arrays.finish()
    return Encoded(tokens, offsets, truncated, empty)


def _are_blank(texts: Iterable[str]) -> bool:
    return not any(text.strip() for text in texts)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[Array, Array]:
    """The ids of the special tokens that the tokenizer adds before a text and after it."""
    encoded = tokenizer(["a"], return_special_tokens_mask=True)
    ids = np.asarray(encoded["input_ids"][0], dtype=np.int32)
    text = np.flatnonzero(~np.asarray(encoded["special_tokens_mask"][0], dtype=bool))
    return ids[: text[0]], ids[text[-1] + 1 :]


def row_ranges(layout: Layout | None) -> Iterator[tuple[int, int]]:
    """Begin and end of the predictions of each row, for tasks with several predictions per row."""
    assert layout is not None
    yield from layout.ranges()
