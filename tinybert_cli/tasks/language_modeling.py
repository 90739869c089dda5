"""Language modeling: plain text in full blocks, for task-agnostic students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.scratch_files import GrowingArray
from tinybert_cli.tasks.base import Task
from tinybert_cli.tasks.encoding import special_tokens, text_columns_of
from tinybert_cli.tasks.tokenizer_file import whole_encodings
from tinybert_cli.types import Array, Encoded, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1_000_000  # characters that are tokenized in one call: some 100 MB, however long the text


class LanguageModeling(Task):
    name = "language-modeling"
    head = "base"
    pipeline = "feature-extraction"
    recipe = "general"
    main_metric = "loss"
    metrics: ClassVar[Mapping[str, bool]] = {"loss": False}

    def long_input(self, longest: int) -> str:
        return f"The texts were joined and read in blocks of {longest} tokens"

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The texts, concatenated and split into blocks of `max_seq_length`; only the last block may be shorter.

        A block begins and ends like a single text, [CLS] ... [SEP]; [SEP] separates the texts inside it.
        """
        builder, blocks = Blocks(tokenizer, data), GrowingArray(np.int32)
        for full in builder.add(rows):
            blocks.append(full)
        if not builder.has_text:
            raise InputError("these rows have no text", where=rows.location(0))
        blocks.append(builder.finish())
        return encoded_blocks(blocks.finish(), data, tokenizer)

    def usage(self, folder: str, data: Data) -> str:
        return (
            f'from transformers import pipeline\n\npipeline("feature-extraction", "{folder}")("Better than it looks.")'
        )


class Blocks:
    """Cuts the concatenated texts of rows, which may come in parts, into blocks of `max_seq_length` tokens (T).

    Args:
        rest: tokens of earlier rows, see `rest`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data: Data, rest: Sequence[int] = ()) -> None:
        self._tokenizer, self._data = tokenizer, data
        self._before, self._after = special_tokens(tokenizer)
        self.rest = np.asarray(rest, dtype=np.int32)  # tokens that fill no block yet, a separator after each text
        self.has_text = False

    def add(self, rows: Rows) -> Iterator[Array]:
        """The blocks (N, T) that these rows complete, in parts.

        Raises:
            InputError: a row is not text.
        """
        paragraphs = (
            text for texts in zip(*text_columns_of(rows, self._data), strict=True) for text in texts if text.strip()
        )
        before, after, length = self._before, self._after, self._data.max_seq_length
        begin, end = len(before), length - len(after)
        for part in _tokenized(paragraphs, self._tokenizer, after):
            ids, self.has_text = np.concatenate([self.rest, part]), self.has_text or len(part) > 0
            count = max(0, len(ids) - len(after)) // (end - begin)  # without the last separator
            whole, self.rest = np.split(ids, [count * (end - begin)])
            full = np.empty((count, length), dtype=np.int32)
            full[:, :begin], full[:, begin:end], full[:, end:] = before, whole.reshape(count, end - begin), after
            yield full

    def finish(self) -> Array:
        """The last block (t,), which may be shorter; empty if there is none."""
        rest = self.rest[: max(0, len(self.rest) - len(self._after))]  # the last block gets its own
        self.rest = self.rest[:0]
        return np.concatenate([self._before, rest, self._after]) if len(rest) else rest


def encoded_blocks(ids: Array, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Blocks as the task returns them, from all their tokens, concatenated: all blocks but the last one are full."""
    tokens = {"input_ids": (ids, tokenizer.pad_token_id)}
    if "token_type_ids" in tokenizer.model_input_names:
        tokens["token_type_ids"] = (np.zeros(len(ids), dtype=np.int8), tokenizer.pad_token_type_id)
    offsets = np.append(np.arange(0, len(ids), data.max_seq_length), len(ids))
    return Encoded(tokens, offsets, truncated=0, empty=[])


def _tokenized(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, after: Array) -> Iterator[Array]:
    """The token ids of all texts, in parts, each text followed by `after`; texts without any token are left out."""
    for chunk in _chunks(texts):
        texts_ids = [np.asarray(one.ids, np.int32) for one in whole_encodings(tokenizer, chunk)]
        parts = [part for ids in texts_ids if len(ids) for part in (ids, after)]
        yield np.concatenate([np.zeros(0, np.int32), *parts])


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    """The texts in lists of at most _CHUNK characters."""
    chunk: list[str] = []
    size = 0
    for part in (part for text in texts for part in _cut(text)):
        if chunk and size + len(part) > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(part)
        size += len(part)
    if chunk:
        yield chunk


def _cut(text: str) -> Iterator[str]:
    """The text, or its parts of at most _CHUNK characters, split at a space where there is one."""
    begin = 0
    while len(text) - begin > _CHUNK:
        space = text.rfind(" ", begin + 1, begin + _CHUNK)
        end = space if space > 0 else begin + _CHUNK
        yield text[begin:end]
        begin = end
    yield text[begin:]
