"""Text columns as token ids: texts and pairs, cut to `max_seq_length`; what tokenizers add around a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array, Encoded, Layout, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1000  # rows that are tokenized in one call


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


def encode_texts(rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A text or a pair of texts per row, cut to `max_seq_length`: one window and one prediction each."""
    texts = text_columns_of(rows, data)
    names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    parts: dict[str, list[Array]] = {name: [] for name in names}
    lengths: list[int] = []
    truncated = 0
    for begin in range(0, len(rows), _CHUNK):
        chunk = tokenizer(
            *(column[begin : begin + _CHUNK] for column in texts), truncation=True, max_length=data.max_seq_length
        )
        lengths += [len(ids) for ids in chunk["input_ids"]]
        truncated += sum(bool(encoding.overflowing) for encoding in chunk.encodings or [])
        for name in names:
            parts[name].append(np.concatenate([np.asarray(ids, dtype=np.int32) for ids in chunk[name]]))
    return Encoded(
        tokens={name: (np.concatenate(parts[name]), padding[name]) for name in names},
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        truncated=truncated,
        empty=[i for i in range(len(rows)) if not any(column[i].strip() for column in texts)],
    )


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
