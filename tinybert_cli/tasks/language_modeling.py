"""Language modeling: plain text in full blocks, for task-agnostic students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.base import Task
from tinybert_cli.tasks.encoding import special_tokens, text_columns_of
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

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The texts, concatenated and split into blocks of `max_seq_length`; only the last block may be shorter.

        A block begins and ends like a single text, [CLS] ... [SEP]; [SEP] separates the texts inside it.
        """
        before, after = special_tokens(tokenizer)
        paragraphs = (
            text for texts in zip(*text_columns_of(rows, data), strict=True) for text in texts if text.strip()
        )
        ids = _tokenized(paragraphs, tokenizer, after)
        if not len(ids):
            raise InputError("these rows have no text", where=rows.location(0))
        ids = ids[: len(ids) - len(after)]  # the last block gets its own
        length, begin, end = data.max_seq_length, len(before), data.max_seq_length - len(after)
        count = len(ids) // (end - begin)
        whole, rest = np.split(ids, [count * (end - begin)])
        blocks = np.empty((count, length), dtype=np.int32)
        blocks[:, :begin], blocks[:, begin:end], blocks[:, end:] = before, whole.reshape(count, end - begin), after
        values = np.concatenate([blocks.ravel(), *([before, rest, after] if len(rest) else [])])
        tokens = {"input_ids": (values, tokenizer.pad_token_id)}
        if "token_type_ids" in tokenizer.model_input_names:
            tokens["token_type_ids"] = (np.zeros(len(values), dtype=np.int8), tokenizer.pad_token_type_id)
        return Encoded(tokens, np.append(np.arange(0, len(values), length), len(values)), truncated=0, empty=[])

    def usage(self, folder: str, data: Data) -> str:
        return (
            f'from transformers import pipeline\n\npipeline("feature-extraction", "{folder}")("Better than it looks.")'
        )


def _tokenized(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, after: Array) -> Array:
    """The token ids of all texts, concatenated, each followed by `after`."""
    parts = [np.zeros(0, dtype=np.int32)]
    for chunk in _chunks(texts):
        encoded = tokenizer(
            chunk, add_special_tokens=False, return_token_type_ids=False, return_attention_mask=False, verbose=False
        )
        parts.append(
            np.concatenate([part for ids in encoded["input_ids"] for part in (np.asarray(ids, np.int32), after)])
        )
    return np.concatenate(parts)


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
