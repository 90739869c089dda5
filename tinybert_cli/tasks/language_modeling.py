"""Language modeling: plain text in full blocks, for task-agnostic students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.scratch_files import GrowingArray
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
        length, begin, end = data.max_seq_length, len(before), data.max_seq_length - len(after)
        blocks, ids, has_text = GrowingArray(np.int32), np.zeros(0, dtype=np.int32), False
        for part in _tokenized(paragraphs, tokenizer, after):
            ids, has_text = np.concatenate([ids, part]), True
            count = max(0, len(ids) - len(after)) // (end - begin)  # without the last separator
            whole, ids = np.split(ids, [count * (end - begin)])
            full = np.empty((count, length), dtype=np.int32)
            full[:, :begin], full[:, begin:end], full[:, end:] = before, whole.reshape(count, end - begin), after
            blocks.append(full)
        if not has_text:
            raise InputError("these rows have no text", where=rows.location(0))
        rest = ids[: len(ids) - len(after)]  # the last block gets its own
        if len(rest):
            blocks.append(np.concatenate([before, rest, after]))
        values = blocks.finish()
        tokens = {"input_ids": (values, tokenizer.pad_token_id)}
        if "token_type_ids" in tokenizer.model_input_names:
            tokens["token_type_ids"] = (np.zeros(len(values), dtype=np.int8), tokenizer.pad_token_type_id)
        return Encoded(tokens, np.append(np.arange(0, len(values), length), len(values)), truncated=0, empty=[])

    def usage(self, folder: str, data: Data) -> str:
        return (
            f'from transformers import pipeline\n\npipeline("feature-extraction", "{folder}")("Better than it looks.")'
        )


def _tokenized(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, after: Array) -> Iterator[Array]:
    """The token ids of all texts, in parts, each text followed by `after`."""
    for chunk in _chunks(texts):
        encoded = tokenizer(
            chunk, add_special_tokens=False, return_token_type_ids=False, return_attention_mask=False, verbose=False
        )
        yield np.concatenate([part for ids in encoded["input_ids"] for part in (np.asarray(ids, np.int32), after)])


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
