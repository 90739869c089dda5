"""How a question and its context are read: in windows that overlap, a word where most of the context is around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.metrics import spans
from tinybert_cli.types import Array, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ContextWindows:
    """Windows over questions and contexts, as they come."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
        self.tokens: dict[str, list[Array]] = {name: [] for name in names}
        self.lengths: list[int] = []  # of each window
        self.positions: list[Array] = []
        self.counts: list[int] = []  # answers of each window
        self.rows: list[int] = []  # answers of each row

    def add(self, questions: Sequence[str], contexts: Sequence[str], data: Data) -> None:
        room = data.max_seq_length // 2 - self.tokenizer.num_special_tokens_to_add(pair=True)
        said = self.tokenizer(
            list(questions), list(contexts), truncation="only_second", max_length=data.max_seq_length,
            stride=max(0, min(data.doc_stride, room - 1)), return_overflowing_tokens=True,
            return_offsets_mapping=True, return_attention_mask=False,
        )  # fmt: skip
        for name, parts in self.tokens.items():
            parts += [np.asarray(ids, dtype=np.int32) for ids in said[name]]
        self.lengths += [len(ids) for ids in said["input_ids"]]
        owners = np.asarray(said["overflow_to_sample_mapping"])
        for row, context in enumerate(contexts):
            chosen = np.flatnonzero(owners == row)
            windows = [pieces_of_context(said["offset_mapping"][index], said.sequence_ids(index)) for index in chosen]
            parts = parted(spans.word_spans(context), windows)
            self.positions += parts
            self.counts += [len(part) for part in parts]
            self.rows.append(sum(map(len, parts)))

    def encoded(self, *, truncated: int, empty: list[int]) -> Encoded:
        padding = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        return Encoded(
            tokens={name: (np.concatenate(parts), padding[name]) for name, parts in self.tokens.items()},
            offsets=np.cumsum([0, *self.lengths]),
            truncated=truncated,
            empty=empty,
            positions=np.concatenate(self.positions),
            window_offsets=np.cumsum([0, *self.counts]),
            row_offsets=np.cumsum([0, *self.rows]),
        )


def parted(words: Array, windows: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Where the answers to a row are read (A, 2), parted among its windows; each but no answer in one of them.

    Args:
        words: characters of the context's words (W, 2).
        windows: the places of the context's pieces (P,) in each, and their characters (P, 2).
    """
    owner = np.zeros(len(words), dtype=int)
    depth = np.full(len(words), -1)
    read = []
    for number, (places, characters) in enumerate(windows):
        if not len(places):  # no context at all
            read.append(np.zeros((len(words), 2), dtype=np.int64))
            continue
        first = np.searchsorted(characters[:, 1], words[:, 0], side="right").clip(max=len(places) - 1)
        last = np.maximum(np.searchsorted(characters[:, 0], words[:, 1], side="left") - 1, first)
        read.append(np.stack([places[first], places[last]], axis=1))
        held = np.ones(len(words), dtype=bool)
        if number:
            held &= words[:, 0] >= characters[0, 0]
        if number < len(windows) - 1:
            held &= words[:, 1] <= characters[-1, 1]
        around = np.minimum(first, len(places) - 1 - last)
        better = held & (around > depth)
        owner[better], depth[better] = number, around[better]
    owner = np.maximum.accumulate(owner)
    none = np.zeros((1, 2), dtype=np.int64)
    parts = [places[owner == number] for number, places in enumerate(read)]
    return [np.concatenate([none, parts[0]]), *parts[1:]]


def pieces_of_context(characters: Sequence[tuple[int, int]], sequences: Sequence[int | None]) -> tuple[Array, Array]:
    """The places in a window of the pieces of its context, and the characters that they are of (P, 2)."""
    places = np.flatnonzero(np.asarray([sequence == 1 for sequence in sequences]))
    return places, np.asarray(characters, dtype=np.int64).reshape(-1, 2)[places]


def short_enough(questions: Sequence[str], limit: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """The questions, cut to `limit` pieces, and how many were."""
    said = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept, cut = list(questions), 0
    for index, characters in enumerate(said["offset_mapping"]):
        if len(characters) > limit:
            kept[index], cut = questions[index][: characters[limit - 1][1]], cut + 1
    return kept, cut
