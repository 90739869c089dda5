"""Label datasets: the rows that a teacher was shown, and its answers, in Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.data.readers import read_file
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.types import Array, Rows, concatenated_ranges

TRAINING = ("train-", "augmented-", "unlabeled-")
COPY = TRAINING.index("augmented-")


@dataclass(frozen=True)
class SoftLabels:
    """A label dataset: the N rows that a teacher was shown, and the logits of its A answers, of C numbers each."""

    rows: Rows
    logits: Array  # (A, C)
    offsets: Array | None = None  # (N + 1,) where the answers of each row begin; None: one each
    kinds: Array | None = None  # (N,) which of TRAINING each row is of; None: all are of train

    @property
    def originals(self) -> Rows:
        """The rows that nobody made up."""
        return self.rows if self.kinds is None else self.rows.select(np.flatnonzero(self.kinds != COPY).tolist())

    def prediction_indices(self, rows: Array) -> Array:
        """Which of the A answers belong to these rows."""
        return rows if self.offsets is None else concatenated_ranges(self.offsets, rows)

    def select(self, rows: Array) -> SoftLabels:
        counts = None if self.offsets is None else np.diff(self.offsets)[rows]
        return SoftLabels(
            self.rows.select(rows.tolist()),
            self.logits[self.prediction_indices(rows)],
            None if counts is None else np.concatenate([[0], np.cumsum(counts)]),
            None if self.kinds is None else self.kinds[rows],
        )

    def head(self, count: int | None) -> SoftLabels:
        """All, if the teacher was shown at most so many rows of train and unlabeled each; or else the first of them."""
        if count is None or self._longest() <= count:
            return self
        return self.select(np.arange(min(count, len(self.rows))))

    def _longest(self) -> int:
        """Rows of train or of unlabeled, whichever has more."""
        kinds = np.zeros(len(self.rows), dtype=int) if self.kinds is None else self.kinds
        return int(np.bincount(kinds[kinds != COPY], minlength=1).max())


def read_soft_labels(folder: Path, files: Iterable[str]) -> SoftLabels:
    """The train, augmented and unlabeled rows of a label dataset; what it holds of other splits is not for training."""
    shards = training_shards(files)
    if not shards:
        raise InputError(f"'{folder}' has no rows of train or unlabeled", hint="gen-soft-labels: splits: [train]")
    parts = [read_file(folder / name) for name in shards]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    columns = {name: [v for part in parts for v in part.columns.get(name, [None] * len(part))] for name in names}
    logits, offsets = _flat(columns.pop("teacher_logits"))
    kinds = np.repeat([_split(name) for name in shards], [len(part) for part in parts])
    return SoftLabels(Rows(columns, tuple(origin for part in parts for origin in part.origins)), logits, offsets, kinds)


def training_shards(files: Iterable[str]) -> list[str]:
    """Of the files of a label dataset those with rows to train on, in their order."""
    shards = [name for name in files if name.startswith(TRAINING) and name.endswith(".parquet")]
    return sorted(shards, key=lambda name: (_split(name), name))


def _flat(answers: list[Any]) -> tuple[Array, Array | None]:
    """One answer of C numbers per row → (N, C), None; a list of them per row → (A, C), and where each row begins."""
    several = any(answer and isinstance(answer[0], list) for answer in answers)
    if not several:
        return np.asarray(answers, dtype=np.float32), None
    flat = np.asarray([one for answer in answers for one in answer], dtype=np.float32)
    return flat, np.concatenate([[0], np.cumsum([len(answer) for answer in answers])])


def _split(name: str) -> int:
    return next(place for place, split in enumerate(TRAINING) if name.startswith(split))


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Columns as one Parquet file, with page checksums."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path, write_page_checksum=True)


def write_soft_labels(
    path: Path, rows: Rows, logits: Array, offsets: Array | None, *, columns: Mapping[str, Sequence[Any]], dtype: str
) -> None:
    """One shard: the input columns, the `columns` of answers, and teacher_logits: C numbers, or a list of such lists.

    Args:
        logits: (A, C).
        offsets: (N + 1,) where the answers of each row begin; None: one each.
    """
    import pyarrow as pa

    flat = pa.array(logits.astype(dtype).ravel(), type=pa.float16() if dtype == "float16" else pa.float32())
    answers = pa.FixedSizeListArray.from_arrays(flat, logits.shape[-1])
    if offsets is not None:
        answers = pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), answers)
    write_table(path, {**rows.columns, **columns, "teacher_logits": answers})


def existing_folder(name: str, key: str) -> Path:
    """A folder that an earlier stage wrote; InputError with near names if it is not there or not finished."""
    path = Path(name)
    if not path.is_dir():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise InputError(
            f"there is no folder '{name}'",
            where=key,
            hint=near or "run the stage that writes it first: gen-soft-labels",
        )
    if not (path / "manifest.json").exists():
        what = "unfinished: run gen-soft-labels again" if (path / "checkpoints").exists() else "not a label dataset"
        raise InputError(f"'{name}' is {what}", where=key, hint="it has no manifest.json, which is written last")
    return path
