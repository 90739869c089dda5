"""The teacher's K most probable tokens at each position of its translations, beside a label dataset.

Each shard has arrays that are memory-mapped and read one batch at a time: <shard>.target_ids.npy, the tokens that the
distributions are about, .offsets.npy, where those of each row begin, .topk_ids.npy and .topk_logprobs.npy (P, K), and
.logsumexp.npy (P,), with which temperature 2 is computed. Ids are uint16 in vocabularies of at most 65,536 tokens, else
three bytes, the lowest first: with K = 8 a target token takes 36 or 45 bytes.

Shapes: N rows, P target tokens, K stored tokens of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.data.layer_states import array_file, offsets_of
from tinybert_cli.data.soft_labels import training_shards
from tinybert_cli.errors import InputError
from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import Array, concatenated_ranges

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

IDS, OFFSETS = "target_ids", "offsets"
TOP_IDS, TOP_LOGPROBS, LOGSUMEXP = "topk_ids", "topk_logprobs", "logsumexp"
NAMES = (IDS, OFFSETS, TOP_IDS, TOP_LOGPROBS, LOGSUMEXP)
SMALL_VOCABULARY = 2**16  # its ids take two bytes
LONGEST_ID = 3  # bytes of an id of a larger vocabulary


def top_k_files(shard: str) -> list[str]:
    """Names of the files of a shard such as `train-00000-of-00001.parquet`."""
    return [array_file(shard, name) for name in NAMES]


class TopKWriter:
    """Collects the distributions of one shard, row by row in any order, and writes its files.

    Args:
        target_ids: of each row.
        k: stored tokens; all of them if the vocabulary has fewer.
        vocabulary: number of logits of the model, which may be more than the tokens of its tokenizer.
    """

    def __init__(self, target_ids: Sequence[Sequence[int]], k: int, vocabulary: int) -> None:
        self.offsets = offsets_of(np.array([len(ids) for ids in target_ids]))
        self.small = vocabulary <= SMALL_VOCABULARY
        count, k = int(self.offsets[-1]), min(k, vocabulary)
        self.target_ids = np.fromiter((token for ids in target_ids for token in ids), dtype=np.int32, count=count)
        self.arrays: dict[str, Array] = {
            TOP_IDS: np.zeros((count, k), dtype=np.int32),
            TOP_LOGPROBS: np.zeros((count, k), dtype=np.float16),
            LOGSUMEXP: np.zeros(count, dtype=np.float16),
        }

    def write(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Stores the distributions of a batch of rows, (P, ...) each, concatenated.

        Raises:
            InputError: a number is NaN or infinite.
        """
        indices = concatenated_ranges(self.offsets, np.asarray(rows))
        for name, numbers in values.items():
            if not np.isfinite(numbers).all():
                raise InputError(
                    "the teacher's log-probabilities are NaN or infinite",
                    hint="its weights are broken or far too large: train it again, or use another model",
                )
            self.arrays[name][indices] = numbers

    def save(self, folder: Path, shard: str) -> None:
        """Writes the files; every row has been written."""
        ids = {IDS: _packed(self.target_ids, self.small), TOP_IDS: _packed(self.arrays[TOP_IDS], self.small)}
        for name, values in {**self.arrays, **ids, OFFSETS: self.offsets}.items():
            np.save(folder / array_file(shard, name), values)


@dataclass(frozen=True)
class TopK:
    """The stored distributions of N rows; only those of the current batch are read into memory."""

    shards: Sequence[Mapping[str, Array]]
    first_rows: Array  # (shards + 1,) the first row of each shard
    rows: Array | None = None  # (W,) the stored row of each window, or -1 without one; None: the same order

    def select(self, rows: Array) -> TopK:
        """For windows that are these rows, -1 for a window whose target has no distribution."""
        return TopK(self.shards, self.first_rows, rows if self.rows is None else self.rows[rows])

    @property
    def k(self) -> int:
        """Stored tokens of each target token."""
        return int(self.shards[0][TOP_LOGPROBS].shape[1])

    def check(self, labels: Array, offsets: Array) -> None:
        """InputError if the target tokens of the student (P,), with offsets (W + 1,), are not those that are stored."""
        for window, row in enumerate(self._rows(np.arange(len(offsets) - 1))):
            own = labels[offsets[window] : offsets[window + 1]]
            if row < 0 or np.array_equal(own, stored := self._of(row, IDS)):
                continue
            shared = min(len(own), len(stored))
            unequal = np.flatnonzero(own[:shared] != stored[:shared])
            first = int(unequal[0]) if len(unequal) else shared
            raise InputError(
                f"the stored distributions (top_k) are about other target tokens than the student's: row {row + 1} has "
                f"{_named(stored, first)} there and {_named(own, first)} here",
                hint="give the student the teacher's tokenizer, or run gen-soft-labels again",
            )

    def batch(self, windows: Array, lengths: Array) -> dict[str, Tensor]:
        """`teacher_topk_ids` and so on (P, ...), and `teacher_known` (P,), of windows with these target lengths."""
        known: list[Array] = []
        parts: dict[str, list[Array]] = {name: [] for name in (TOP_IDS, TOP_LOGPROBS, LOGSUMEXP)}
        for row, length in zip(self._rows(windows), lengths.tolist(), strict=True):
            known.append(np.full(length, row >= 0))
            for name, values in parts.items():
                values.append(self._of(row, name) if row >= 0 else self._nothing(name, length))
        batch = {f"teacher_{name}": torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
        return {**batch, "teacher_known": torch.from_numpy(np.concatenate(known))}

    def _rows(self, windows: Array) -> list[int]:
        rows: list[int] = (windows if self.rows is None else self.rows[windows]).tolist()
        return rows

    def _of(self, row: int, name: str) -> Array:
        shard = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        arrays, index = self.shards[shard], row - int(self.first_rows[shard])
        begin, end = arrays[OFFSETS][index : index + 2]
        values = np.asarray(arrays[name][begin:end])
        return _unpacked(values) if name in (IDS, TOP_IDS) else values

    def _nothing(self, name: str, length: int) -> Array:
        shape = (length,) if name == LOGSUMEXP else (length, self.k)
        return np.zeros(shape, dtype=np.int64 if name == TOP_IDS else np.float16)


def read_top_k(folder: Path, files: Iterable[str]) -> TopK:
    """The distributions of the rows that `read_translations` reads, in the same order."""
    shards = training_shards(files)
    arrays = [
        {name: np.asarray(np.load(folder / array_file(shard, name), mmap_mode="r")) for name in NAMES}
        for shard in shards
    ]
    return TopK(arrays, offsets_of(np.array([len(part[OFFSETS]) - 1 for part in arrays])))


def _packed(ids: Array, small: bool) -> Array:
    """Ids (...) as uint16, or as three bytes each (..., 3)."""
    if small:
        return ids.astype(np.uint16)
    return np.ascontiguousarray(ids.astype("<u4")[..., None].view(np.uint8)[..., :LONGEST_ID])


def _unpacked(ids: Array) -> Array:
    """The ids of `_packed` as int64."""
    if ids.dtype == np.uint16:
        return ids.astype(np.int64)
    return ids.astype(np.int64) @ (256 ** np.arange(LONGEST_ID))


def _named(ids: Array, index: int) -> str:
    return f"{ids[index]} as token {index + 1}" if index < len(ids) else f"only {len(ids)} tokens"
