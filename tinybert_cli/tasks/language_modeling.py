"""Language modeling: running text in full blocks, for students of no task yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.base import Task, frame, texts_of
from tinybert_cli.types import Array, Encoded, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1_000_000  # characters that are tokenized in one call: some 100 MB, however long the text


class LanguageModeling(Task):
    name = "language-modeling"
    head = "base"
    pipeline = "feature-extraction"
    main_metric = "loss"
    metrics: ClassVar[Mapping[str, bool]] = {"loss": False}

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The texts one after the other, cut into blocks of `max_seq_length`; only the last one may be shorter.

        A block begins and ends like a text of its own, [CLS] ... [SEP], and [SEP] parts the texts in it.
        """
        before, after = frame(tokenizer)
        paragraphs = (text for texts in zip(*texts_of(rows, data), strict=True) for text in texts if text.strip())
        ids = _tokenized(paragraphs, tokenizer, after)
        if not len(ids):
            raise InputError("there is no text in these rows", where=rows.location(0))
        ids = ids[: len(ids) - len(after)]  # the last block ends with it anyway
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

    def usage(self, folder: str, *, pair: bool) -> str:
        return (
            f'from transformers import pipeline\n\npipeline("feature-extraction", "{folder}")("Better than it looks.")'
        )


def _tokenized(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, after: Array) -> Array:
    """All texts in one row, each with `after` behind it."""
    parts = [np.zeros(0, dtype=np.int32)]
    for chunk in _chunks(texts):
        said = tokenizer(
            chunk, add_special_tokens=False, return_token_type_ids=False, return_attention_mask=False, verbose=False
        )
        parts.append(np.concatenate([part for ids in said["input_ids"] for part in (np.asarray(ids, np.int32), after)]))
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
    """The text, or, if it is longer than _CHUNK, its parts, cut between two words where there are any."""
    begin = 0
    while len(text) - begin > _CHUNK:
        space = text.rfind(" ", begin + 1, begin + _CHUNK)
        end = space if space > 0 else begin + _CHUNK
        yield text[begin:end]
        begin = end
    yield text[begin:]
