"""Windows over questions and long contexts; every token of a window has a prediction. T: tokens of one window."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.metrics.spans import BEGIN, END, WINDOW
from tinybert_cli.scratch_files import GrowingArray
from tinybert_cli.tasks.encoding import TokenArrays, starts
from tinybert_cli.types import Array, Encoded, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ContextWindows:
    """Collects the windows of rows in flat arrays, chunk by chunk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens = TokenArrays(tokenizer)
        self.positions = GrowingArray(np.int32)  # of each token in its window
        self.spans = GrowingArray(np.int32)  # (T, 3) of each window
        self.row_counts = GrowingArray(np.int64)  # tokens of each row
        self.windows_of_rows = GrowingArray(np.int64)

    def add(self, questions: Sequence[str], contexts: Sequence[str], data: Data) -> None:
        room = data.max_seq_length // 2 - self.tokenizer.num_special_tokens_to_add(pair=True)
        encoded = self.tokenizer(
            list(questions), list(contexts), truncation="only_second", max_length=data.max_seq_length,
            stride=max(0, min(data.doc_stride, room - 1)), return_overflowing_tokens=True,
            return_offsets_mapping=True, return_attention_mask=False,
        )  # fmt: skip
        lengths = self.tokens.append(encoded)
        self.positions.append(np.concatenate([np.arange(length) for length in lengths]))
        row_of_window = np.asarray(encoded["overflow_to_sample_mapping"])
        self.windows_of_rows.append(np.bincount(row_of_window, minlength=len(contexts)))
        spans_of_rows: list[Array] = []
        for row, context in enumerate(contexts):
            windows = [
                (encoded["offset_mapping"][index], encoded.sequence_ids(index))
                for index in np.flatnonzero(row_of_window == row)
            ]
            spans_of_rows.append(np.concatenate(list(token_spans(context, windows))))
        self.spans.append(np.concatenate(spans_of_rows))
        self.row_counts.append(list(map(len, spans_of_rows)))

    def encoded(self, *, truncated: int, empty: list[int]) -> Encoded:
        tokens, offsets = self.tokens.finish()
        return Encoded(
            tokens=tokens,
            offsets=offsets,
            truncated=truncated,
            empty=empty,
            positions=self.positions.finish(),
            window_offsets=offsets,
            layout=Layout(starts(self.row_counts.finish()), self.spans.finish().reshape(-1, 3)),
            row_windows=starts(self.windows_of_rows.finish()),
        )


def token_spans(
    context: str, windows: Sequence[tuple[Sequence[tuple[int, int]], Sequence[int | None]]]
) -> Iterator[Array]:
    """The token spans (T, 3) of each window of a row, see `metrics.spans`.

    An accent that no token contains belongs to the token before it.

    Args:
        windows: of each the characters of its tokens, and the text that each belongs to, 1 for the context.
    """
    inside = np.array([not character.isspace() for character in context], dtype=bool)
    indices = np.arange(len(context))
    next_text = np.append(np.where(inside, indices, len(context)), len(context))
    next_text = np.minimum.accumulate(next_text[::-1])[::-1]  # for each character, the first at or after it
    previous_text = np.maximum.accumulate(np.append(0, np.where(inside, indices + 1, 0)))  # the end of the last before
    tokens_of = [np.flatnonzero(np.asarray([text == 1 for text in texts], dtype=bool)) for _, texts in windows]
    characters_of = [
        np.asarray(characters, dtype=np.int64).reshape(-1, 2)[tokens]
        for (characters, _), tokens in zip(windows, tokens_of, strict=True)
    ]
    after_accents = _after_accents(context, np.concatenate(characters_of))
    for number, (tokens, characters) in enumerate(zip(tokens_of, characters_of, strict=True)):
        begins, ends = characters.T
        spans = np.full((len(windows[number][1]), 3), -1, dtype=np.int32)
        spans[:, WINDOW] = number
        spans[tokens, BEGIN], spans[tokens, END] = next_text[begins], previous_text[after_accents[ends]]
        yield spans


def _after_accents(context: str, characters: Array) -> Array:
    """For each character, (C + 1,), the first at or after it that is no combining mark outside all tokens (T, 2)."""
    indices = np.arange(len(context) + 1)
    if context.isascii():
        return indices
    free = np.array([*(unicodedata.category(character) == "Mn" for character in context), False], dtype=bool)
    if not free.any():
        return indices
    for begin, end in characters:
        free[begin:end] = False
    indices[free] = len(context)
    return np.asarray(np.minimum.accumulate(indices[::-1])[::-1])


def cut_questions(questions: Sequence[str], limit: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """The questions, cut to `limit` tokens, and how many were cut."""
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    result, cut = list(questions), 0
    for index, characters in enumerate(encoded["offset_mapping"]):
        if len(characters) > limit:
            result[index], cut = questions[index][: characters[limit - 1][1]], cut + 1
    return result, cut
