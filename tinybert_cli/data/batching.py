"""Batches of similar lengths from tokenized rows.

Shapes: N rows, W windows (in most tasks one per row), P predictions (in most tasks one per window; in translation the
target tokens), B windows of one batch, T tokens, U target tokens, C numbers of one prediction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.data.layer_states import LayerStates
from tinybert_cli.data.stack_states import StackStates
from tinybert_cli.data.top_k import TopK
from tinybert_cli.scratch_files import bound_mapped_memory, has_read
from tinybert_cli.types import Array, Encoded, concatenated_ranges, lengths_at, padded

POOL = 50  # batches sorted by length together: enough for little padding, few enough to keep the order random


@dataclass(frozen=True)
class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tokenized rows, unpadded, in flat arrays: 67,000 sentences take 4 MB.

    Each of the W windows is a row or a part of a long row, and has one or more of the P predictions.
    """

    tokens: Mapping[str, tuple[Array, int]]  # name → (all values, concatenated (ΣT,), the padding value)
    offsets: Array  # (W + 1,) where each window begins
    targets: Mapping[str, Array] = field(default_factory=dict)  # name → (P, ...): labels, teacher_logits
    window_offsets: Array | None = None  # (W + 1,) where the predictions of each window begin; None: one each
    positions: Array | None = None  # (P,) the token of each prediction
    states: LayerStates | StackStates | None = None  # layer states of a teacher for these windows
    decoder: tuple[Array, int] | None = None  # decoder_input_ids (P,) and the padding value; `positions` are theirs
    top_k: TopK | None = None  # distributions of a teacher for the target tokens of these windows

    @classmethod
    def of(cls, encoded: Encoded, states: LayerStates | StackStates | None = None, /, **targets: Array) -> Examples:
        """Encoded rows with their targets, (P, ...) each."""
        return cls(
            encoded.tokens, encoded.offsets, targets, encoded.window_offsets, encoded.positions, states, encoded.decoder
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Tokens of each window (W,), as int32: half of the memory of the offsets."""
        has_read(self.offsets.nbytes)
        return np.subtract(self.offsets[1:], self.offsets[:-1], dtype=np.int32, casting="same_kind")

    @property
    def prediction_count(self) -> int:
        """P, the predictions of all windows."""
        return len(self) if self.window_offsets is None else int(self.window_offsets[-1])

    @property
    def target_lengths(self) -> Array:
        """Target tokens of each window (W,); 0 without a decoder."""
        if self.decoder is None or self.window_offsets is None:
            return np.zeros(len(self), dtype=np.int64)
        return np.diff(self.window_offsets)

    def prediction_indices(self, indices: Sequence[int] | Array) -> Array:
        """Indices of the predictions of these windows, in the order of the windows."""
        windows = np.asarray(indices)
        return windows if self.window_offsets is None else concatenated_ranges(self.window_offsets, windows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The windows as one batch, padded to the longest: input_ids and so on (B, T), targets (P, ...).

        If windows have several predictions, `positions` (P,) are their indices into the B · T tokens, or into the B · U
        target tokens, which come as decoder_input_ids and decoder_attention_mask. With layer states, the batch has
        `teacher_<name>` (B, T, ...) for each of them.
        """
        windows = np.asarray(indices)
        arrays = padded(self.tokens, self.offsets, windows)
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        length = tokens = arrays["attention_mask"].shape[1]
        if self.decoder is not None and self.window_offsets is not None:
            target = padded({"input_ids": self.decoder}, self.window_offsets, windows)
            batch |= {f"decoder_{name}": torch.from_numpy(values) for name, values in target.items()}
            tokens = target["input_ids"].shape[1]
        predictions = self.prediction_indices(windows)
        if self.window_offsets is not None and self.positions is not None:
            window_starts = np.arange(len(windows)) * tokens  # (B,) in the flattened tokens
            starts = np.repeat(window_starts, lengths_at(self.window_offsets, windows))  # (P,)
            batch["positions"] = torch.from_numpy(starts + self.positions[predictions])
        if self.top_k is not None and self.window_offsets is not None:
            batch |= self.top_k.batch(windows, lengths_at(self.window_offsets, windows))
        if self.states is not None:
            batch |= self.states.batch(windows, length)
        batch |= {name: torch.from_numpy(values[predictions]) for name, values in self.targets.items()}
        bound_mapped_memory()
        return batch

    def timing_batches(self, size: int, length: int | None, rows: int) -> list[dict[str, Tensor]]:
        """Full batches of the first `rows` windows, (size, T), with their own lengths or `length` tokens each.

        The windows are repeated if there are fewer than `size`.
        """
        count = min(rows, len(self)) // size * size or size
        indices = np.arange(max(count, size)) % len(self)
        inputs = Examples(self.tokens, self.offsets)
        batches = [inputs.__getitems__(part.tolist()) for part in np.split(indices, range(size, len(indices), size))]
        return batches if length is None else [_with_length(batch, length) for batch in batches[: max(3, 64 // size)]]


def _with_length(batch: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The same batch with its tokens repeated or truncated to `length` per window, without padding."""
    repeats = -(-length // batch["input_ids"].shape[1])
    inputs = {name: values.repeat(1, repeats)[:, :length] for name, values in batch.items()}
    return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}


class BucketBatches(torch.utils.data.Sampler[list[int]]):
    """Shuffled batches of similar lengths: shuffle, sort within pools of batches, shuffle the batches.

    The order depends only on `seed` and `epoch`, so that a resumed run continues with the same batches. An incomplete
    batch comes last.
    """

    def __init__(self, lengths: Array, batch_size: int, *, seed: int, group_by_length: bool = True) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def count(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self)

    def after(self, count: int) -> Iterator[list[int]]:
        """The batches of this epoch after the first `count`."""
        return itertools.islice(iter(self), count, None)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        if self.group_by_length:
            pool = POOL * self.batch_size
            for begin in range(0, len(order), pool):
                rows = order[begin : begin + pool]
                rows[:] = rows[np.argsort(self.lengths[rows], kind="stable")]
        full = len(order) // self.batch_size
        for index in np.concatenate([random.permutation(full), np.arange(full, len(self))]):
            yield order[index * self.batch_size : (index + 1) * self.batch_size].tolist()


class TokenBatches(torch.utils.data.Sampler[list[int]]):
    """Shuffled batches of similar lengths with a limited number of tokens, padding included.

    A batch of B windows has B times the longest source, or target if that is longer, and at least one window: a longer
    one is a batch of its own. The order depends only on `seed` and `epoch`, as in `BucketBatches`; the number of
    batches may differ between epochs.

    Args:
        lengths: (W,) tokens, in translation those of the source.
        target_lengths: (W,) target tokens, by which windows are sorted first: each costs a step of the decoder. 0 in
            other tasks.
    """

    def __init__(
        self, lengths: Array, target_lengths: Array, batch_tokens: int, *, seed: int, group_by_length: bool = True
    ) -> None:
        self.lengths, self.target_lengths, self.batch_tokens = lengths, target_lengths, batch_tokens
        self.seed, self.group_by_length = seed, group_by_length
        self.epoch = 0
        self.counts: dict[int, int] = {}

    def __len__(self) -> int:
        return self.count(self.epoch)

    def count(self, epoch: int) -> int:
        """Batches of an epoch."""
        if epoch not in self.counts:
            self.counts[epoch] = len(self._batches(np.random.default_rng([self.seed, epoch])))
        return self.counts[epoch]

    def after(self, count: int) -> Iterator[list[int]]:
        """The batches of this epoch after the first `count`."""
        return itertools.islice(iter(self), count, None)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = self._batches(random)
        for index in random.permutation(len(batches)):
            yield batches[index].tolist()

    def _batches(self, random: np.random.Generator) -> list[Array]:
        order, longest = random.permutation(len(self.lengths)), np.maximum(self.lengths, self.target_lengths)
        if self.group_by_length and len(order):
            pool = POOL * max(1, int(self.batch_tokens / longest.mean()))
            order = np.concatenate(
                [
                    rows[np.lexsort((self.lengths[rows], self.target_lengths[rows]))]
                    for rows in np.split(order, range(pool, len(order), pool))
                ]
            )
        starts, width, count = [0], 0, 0
        for index, length in enumerate(longest[order].tolist()):
            width, count = max(width, length), count + 1
            if count > 1 and width * count > self.batch_tokens:
                starts.append(index)
                width, count = length, 1
        return np.split(order, starts[1:])


def sorted_batches(lengths: Array, batch_size: int) -> Sequence[list[int]]:
    """Batches for inference, longest rows first: little padding, and too little memory fails in the first batch."""
    return _SortedBatches(lengths, batch_size)


class _SortedBatches(Sequence[list[int]]):
    """Batches of the indices that sort the rows, each made when it is read."""

    def __init__(self, lengths: Array, batch_size: int) -> None:
        self._order = np.argsort(-lengths, kind="stable").astype(np.int32 if len(lengths) < 2**31 else np.int64)
        self._size = batch_size

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        begin = range(len(self))[index] * self._size
        batch: list[int] = self._order[begin : begin + self._size].tolist()
        return batch
