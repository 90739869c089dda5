"""Batches of like lengths out of tokenized rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.data.layer_states import LayerStates
from tinybert_cli.types import Array, Encoded, concatenated_ranges

POOL = 50  # batches that are sorted together: enough to leave next to no padding, few enough to stay random


@dataclass(frozen=True)
class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tokenized rows, unpadded, in flat arrays: 67,000 sentences take 4 MB.

    N windows, each a row or a part of a long one, and the A answers that are to be given: one to a window, or several.
    """

    tokens: Mapping[str, tuple[Array, int]]  # name → (all values in one row (ΣT,), the value of padding)
    offsets: Array  # (N + 1,) where each window begins
    targets: Mapping[str, Array] = field(default_factory=dict)  # name → (A, ...): labels, teacher_logits
    window_offsets: Array | None = None  # (W + 1,) where the predictions of each window begin; None: one each
    positions: Array | None = None  # (A,), or (A, C) for each of its numbers: the token that an answer is read at
    states: LayerStates | None = None  # what a teacher's layers said of these windows

    @classmethod
    def of(cls, encoded: Encoded, states: LayerStates | None = None, /, **targets: Array) -> Examples:
        return cls(encoded.tokens, encoded.offsets, targets, encoded.window_offsets, encoded.positions, states)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Tokens of each window, (N,)."""
        return np.diff(self.offsets)

    def prediction_indices(self, indices: Sequence[int] | Array) -> Array:
        """Which of the A answers are given in these windows, in their order."""
        windows = np.asarray(indices)
        return windows if self.window_offsets is None else concatenated_ranges(self.window_offsets, windows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The windows as one batch, padded to the longest of them: input_ids and so on (B, T), targets (A, ...).

        `places` (A,) says where each answer is read in the B x T tokens, if a window has several; with states there is
        `teacher_<name>` (B, T, ...) for each of them.
        """
        rows = np.asarray(indices)
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
        taken = concatenated_ranges(self.offsets, rows)
        batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, (values, padding) in self.tokens.items():
            padded = np.full(mask.shape, padding, dtype=np.int64)
            padded[mask] = values[taken]
            batch[name] = torch.from_numpy(padded)
        answers = self.prediction_indices(rows)
        if self.window_offsets is not None and self.positions is not None:
            first = np.repeat(np.arange(len(rows)) * mask.shape[1], np.diff(self.window_offsets)[rows])
            places = self.positions[answers]
            batch["positions"] = torch.from_numpy(first.reshape(-1, *[1] * (places.ndim - 1)) + places)
        if self.states is not None:
            batch |= self.states.batch(rows, mask.shape[1])
        return batch | {name: torch.from_numpy(values[answers]) for name, values in self.targets.items()}

    def timing_batches(self, size: int, length: int | None, rows: int) -> list[dict[str, Tensor]]:
        """The first `rows` rows in batches of `size`, with their own lengths or all of `length` tokens (B, T)."""
        count = min(rows, len(self)) // size * size or size
        chosen = np.arange(max(count, size)) % len(self)
        shown = Examples(self.tokens, self.offsets)
        batches = [shown.__getitems__(part.tolist()) for part in np.split(chosen, range(size, len(chosen), size))]
        return batches if length is None else [_of_length(batch, length) for batch in batches[: max(3, 64 // size)]]


def _of_length(batch: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The same rows, their tokens repeated or cut so that each has `length` of them, none of it padding."""
    repeats = -(-length // batch["input_ids"].shape[1])
    shown = {name: values.repeat(1, repeats)[:, :length] for name, values in batch.items()}
    return {**shown, "attention_mask": torch.ones_like(shown["attention_mask"])}


class BucketBatches(torch.utils.data.Sampler[list[int]]):
    """Shuffled batches of like lengths: shuffle, sort within pools of batches, shuffle the batches.

    The order depends on `seed` and `epoch` alone, so that a resumed run goes on with the same batches. A batch that is
    not full comes last: several processes share the batches, and Accelerate looks for a short one nowhere else.
    """

    def __init__(self, lengths: Array, batch_size: int, *, seed: int, group_by_length: bool = True) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        if self.group_by_length:
            pool = POOL * self.batch_size
            order = np.concatenate(
                [
                    rows[np.argsort(self.lengths[rows], kind="stable")]
                    for rows in np.split(order, range(pool, len(order), pool))
                ]
            )
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        full = len(order) // self.batch_size
        for index in [*random.permutation(full), *range(full, len(batches))]:
            yield batches[index].tolist()


def sorted_batches(lengths: Array, batch_size: int) -> list[list[int]]:
    """Batches for prediction, longest rows first: next to no padding, and too little memory shows at once."""
    order = np.argsort(-lengths, kind="stable")
    return [rows.tolist() for rows in np.split(order, range(batch_size, len(order), batch_size))]
