"""Windows over questions and long contexts; each word of a context is predicted in one of its windows.

Shapes: W words of one context, T tokens of the context in one window, P predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.metrics.spans import word_spans
from tinybert_cli.types import Array, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ContextWindows:
    """Collects the windows of rows, chunk by chunk."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
        self.tokens: dict[str, list[Array]] = {name: [] for name in names}
        self.lengths: list[int] = []  # tokens of each window
        self.positions: list[Array] = []
        self.window_counts: list[int] = []  # predictions of each window
        self.row_counts: list[int] = []  # predictions of each row

    def add(self, questions: Sequence[str], contexts: Sequence[str], data: Data) -> None:
        room = data.max_seq_length // 2 - self.tokenizer.num_special_tokens_to_add(pair=True)
        encoded = self.tokenizer(
            list(questions), list(contexts), truncation="only_second", max_length=data.max_seq_length,
            stride=max(0, min(data.doc_stride, room - 1)), return_overflowing_tokens=True,
            return_offsets_mapping=True, return_attention_mask=False,
        )  # fmt: skip
        for name, parts in self.tokens.items():
            parts += [np.asarray(ids, dtype=np.int32) for ids in encoded[name]]
        self.lengths += [len(ids) for ids in encoded["input_ids"]]
        row_of_window = np.asarray(encoded["overflow_to_sample_mapping"])
        for row, context in enumerate(contexts):
            windows = [
                context_tokens(encoded["offset_mapping"][index], encoded.sequence_ids(index))
                for index in np.flatnonzero(row_of_window == row)
            ]
            positions = positions_by_window(word_spans(context), windows)
            self.positions += positions
            self.window_counts += [len(part) for part in positions]
            self.row_counts.append(sum(map(len, positions)))

    def encoded(self, *, truncated: int, empty: list[int]) -> Encoded:
        padding = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        return Encoded(
            tokens={name: (np.concatenate(parts), padding[name]) for name, parts in self.tokens.items()},
            offsets=np.cumsum([0, *self.lengths]),
            truncated=truncated,
            empty=empty,
            positions=np.concatenate(self.positions),
            window_offsets=np.cumsum([0, *self.window_counts]),
            row_offsets=np.cumsum([0, *self.row_counts]),
        )


def positions_by_window(words: Array, windows: Sequence[tuple[Array, Array]]) -> list[Array]:
    """For each window the tokens (P, 2) at which begin and end of its words are predicted; each word is in one window.

    The first prediction of the first window, at its first token, stands for "no answer".

    Args:
        words: begin and end of the context's words in characters (W, 2).
        windows: for each, the indices of the context's tokens (T,) and their characters (T, 2).
    """
    owner = np.zeros(len(words), dtype=int)
    depth = np.full(len(words), -1)
    positions = []
    for number, (tokens, characters) in enumerate(windows):
        if not len(tokens):  # no context at all
            positions.append(np.zeros((len(words), 2), dtype=np.int64))
            continue
        first = np.searchsorted(characters[:, 1], words[:, 0], side="right").clip(max=len(tokens) - 1)
        last = np.maximum(np.searchsorted(characters[:, 0], words[:, 1], side="left") - 1, first)
        positions.append(np.stack([tokens[first], tokens[last]], axis=1))
        inside = np.ones(len(words), dtype=bool)
        if number:
            inside &= words[:, 0] >= characters[0, 0]
        if number < len(windows) - 1:
            inside &= words[:, 1] <= characters[-1, 1]
        distance = np.minimum(first, len(tokens) - 1 - last)
        better = inside & (distance > depth)
        owner[better], depth[better] = number, distance[better]
    owner = np.maximum.accumulate(owner)
    no_answer = np.zeros((1, 2), dtype=np.int64)
    parts = [own[owner == number] for number, own in enumerate(positions)]
    return [np.concatenate([no_answer, parts[0]]), *parts[1:]]


def context_tokens(characters: Sequence[tuple[int, int]], sequences: Sequence[int | None]) -> tuple[Array, Array]:
    """The indices of the context's tokens in a window (T,), and their characters (T, 2)."""
    tokens = np.flatnonzero(np.asarray([sequence == 1 for sequence in sequences]))
    return tokens, np.asarray(characters, dtype=np.int64).reshape(-1, 2)[tokens]


def cut_questions(questions: Sequence[str], limit: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """The questions, cut to `limit` tokens, and how many were cut."""
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    result, cut = list(questions), 0
    for index, characters in enumerate(encoded["offset_mapping"]):
        if len(characters) > limit:
            result[index], cut = questions[index][: characters[limit - 1][1]], cut + 1
    return result, cut
