"""Windows over questions and long contexts; every token of a window has a prediction. T: tokens of one window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.metrics.spans import BEGIN, END, WINDOW
from tinybert_cli.types import Array, Encoded, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ContextWindows:
    """Collects the windows of rows, chunk by chunk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
        self.tokens: dict[str, list[Array]] = {name: [] for name in names}
        self.spans: list[Array] = []  # (T, 3) of each window
        self.row_counts: list[int] = []  # tokens of each row

    def add(self, questions: Sequence[str], contexts: Sequence[str], data: Data) -> None:
        room = data.max_seq_length // 2 - self.tokenizer.num_special_tokens_to_add(pair=True)
        encoded = self.tokenizer(
            list(questions), list(contexts), truncation="only_second", max_length=data.max_seq_length,
            stride=max(0, min(data.doc_stride, room - 1)), return_overflowing_tokens=True,
            return_offsets_mapping=True, return_attention_mask=False,
        )  # fmt: skip
        for name, parts in self.tokens.items():
            parts += [np.asarray(ids, dtype=np.int32) for ids in encoded[name]]
        row_of_window = np.asarray(encoded["overflow_to_sample_mapping"])
        for row, context in enumerate(contexts):
            windows = [
                (encoded["offset_mapping"][index], encoded.sequence_ids(index))
                for index in np.flatnonzero(row_of_window == row)
            ]
            spans = list(token_spans(context, windows))
            self.spans += spans
            self.row_counts.append(sum(map(len, spans)))

    def encoded(self, *, truncated: int, empty: list[int]) -> Encoded:
        lengths = [len(spans) for spans in self.spans]
        offsets = np.cumsum([0, *lengths])
        padding = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        return Encoded(
            tokens={name: (np.concatenate(parts), padding[name]) for name, parts in self.tokens.items()},
            offsets=offsets,
            truncated=truncated,
            empty=empty,
            positions=np.concatenate([np.arange(length) for length in lengths]),
            window_offsets=offsets,
            layout=Layout(np.cumsum([0, *self.row_counts]), np.concatenate(self.spans)),
        )


def token_spans(
    context: str, windows: Sequence[tuple[Sequence[tuple[int, int]], Sequence[int | None]]]
) -> Iterator[Array]:
    """The token spans (T, 3) of each window of a row, see `metrics.spans`.

    Args:
        windows: of each the characters of its tokens, and the text that each belongs to, 1 for the context.
    """
    inside = np.array([not character.isspace() for character in context], dtype=bool)
    indices = np.arange(len(context))
    next_text = np.append(np.where(inside, indices, len(context)), len(context))
    next_text = np.minimum.accumulate(next_text[::-1])[::-1]  # for each character, the first at or after it
    previous_text = np.maximum.accumulate(np.append(0, np.where(inside, indices + 1, 0)))  # the end of the last before
    for number, (characters, texts) in enumerate(windows):
        spans = np.full((len(texts), 3), -1, dtype=np.int32)
        spans[:, WINDOW] = number
        tokens = np.flatnonzero(np.asarray([text == 1 for text in texts], dtype=bool))
        begins, ends = np.asarray(characters, dtype=np.int64).reshape(-1, 2)[tokens].T
        spans[tokens, BEGIN], spans[tokens, END] = next_text[begins], previous_text[ends]
        yield spans


def cut_questions(questions: Sequence[str], limit: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """The questions, cut to `limit` tokens, and how many were cut."""
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    result, cut = list(questions), 0
    for index, characters in enumerate(encoded["offset_mapping"]):
        if len(characters) > limit:
            result[index], cut = questions[index][: characters[limit - 1][1]], cut + 1
    return result, cut
