"""The teacher's K most probable tokens at each position of its translations, beside a label dataset.

Each shard has arrays that are memory-mapped and read one batch at a time: <shard>.target_ids.npy, the tokens that the
distributions are about, .offsets.npy, where those of each row begin, .topk_ids.npy and .topk_logprobs.npy (P, K), and
.logsumexp.npy (P,), with which temperature 2 is computed. With K = 8 and at most 65,536 tokens in the vocabulary they
take 38 bytes per target token.

Shapes: N rows, P target tokens, K stored tokens of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.data.soft_labels import training_shards
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array

IDS, OFFSETS = "target_ids", "offsets"
TOP_IDS, TOP_LOGPROBS, LOGSUMEXP = "topk_ids", "topk_logprobs", "logsumexp"
NAMES = (IDS, OFFSETS, TOP_IDS, TOP_LOGPROBS, LOGSUMEXP)
SMALL_VOCABULARY = 2**16  # its ids take two bytes


def top_k_files(shard: str) -> list[str]:
    """Names of the files of a shard such as `train-00000-of-00001.parquet`."""
    return [_file(shard, name) for name in NAMES]


class TopKWriter:
    """Collects the distributions of one shard, row by row in any order, and writes its files."""

    def __init__(self, target_ids: Sequence[Sequence[int]], k: int, vocabulary: int) -> None:
        lengths = [len(ids) for ids in target_ids]
        kind = np.uint16 if vocabulary <= SMALL_VOCABULARY else np.int32
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        count = int(self.offsets[-1])
        self.arrays: dict[str, Array] = {
            IDS: np.fromiter((token for ids in target_ids for token in ids), dtype=kind, count=count),
            TOP_IDS: np.zeros((count, k), dtype=kind),
            TOP_LOGPROBS: np.zeros((count, k), dtype=np.float16),
            LOGSUMEXP: np.zeros(count, dtype=np.float16),
        }

    def write(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Stores the distributions of a batch of rows, (P, ...) each, concatenated.

        Raises:
            InputError: a number is NaN or infinite.
        """
        indices = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        for name, numbers in values.items():
            if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
                raise InputError(
                    "the teacher's log-probabilities are NaN or infinite",
                    hint="its weights are broken or far too large: train it again, or use another model",
                )
            self.arrays[name][indices] = numbers

    def save(self, folder: Path, shard: str) -> None:
        for name, values in {**self.arrays, OFFSETS: self.offsets}.items():
            np.save(folder / _file(shard, name), values)


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
        return int(self.shards[0][TOP_IDS].shape[1])

    def check(self, labels: Array, offsets: Array) -> None:
        """InputError if the target tokens of the student (P,), with offsets (W + 1,), are not those that are stored."""
        for window, row in enumerate(self._rows(np.arange(len(offsets) - 1))):
            own = labels[offsets[window] : offsets[window + 1]]
            if row >= 0 and not np.array_equal(own, self._of(row, IDS)):
                raise InputError(
                    f"the stored distributions belong to other target tokens than the student's, as in row {row + 1}",
                    hint="use the teacher's tokenizer, or run gen-soft-labels again",
                )

    def batch(self, windows: Array, lengths: Array) -> dict[str, Tensor]:
        """`teacher_topk_ids` and so on (P, ...), and `teacher_known` (P,), of windows with these target lengths."""
        rows, known = self._rows(windows), []
        parts: dict[str, list[Array]] = {name: [] for name in (TOP_IDS, TOP_LOGPROBS, LOGSUMEXP)}
        for row, length in zip(rows, lengths.tolist(), strict=True):
            known.append(np.full(length, row >= 0))
            for name, values in parts.items():
                empty = self.shards[0][name]
                values.append(self._of(row, name) if row >= 0 else np.zeros((length, *empty.shape[1:]), empty.dtype))
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
        arrays[TOP_IDS] = arrays[TOP_IDS].astype(np.int64)
        batch = {f"teacher_{name}": torch.from_numpy(values) for name, values in arrays.items()}
        return {**batch, "teacher_known": torch.from_numpy(np.concatenate(known))}

    def _rows(self, windows: Array) -> Iterator[int]:
        yield from (windows if self.rows is None else self.rows[windows]).tolist()

    def _of(self, row: int, name: str) -> Array:
        shard = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        arrays, index = self.shards[shard], row - int(self.first_rows[shard])
        begin, end = arrays[OFFSETS][index : index + 2]
        return np.asarray(arrays[name][begin:end])


def read_top_k(folder: Path, files: Iterable[str]) -> TopK:
    """The distributions of the rows that `read_translations` reads, in the same order."""
    shards = training_shards(files)
    arrays = [
        {name: np.asarray(np.load(folder / _file(shard, name), mmap_mode="r")) for name in NAMES} for shard in shards
    ]
    counts = [len(part[OFFSETS]) - 1 for part in arrays]
    return TopK(arrays, np.concatenate([[0], np.cumsum(counts)]))


def _file(shard: str, name: str) -> str:
    return f"{shard.removesuffix('.parquet')}.{name}.npy"
