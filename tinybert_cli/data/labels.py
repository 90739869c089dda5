"""Label datasets: the rows that a teacher was shown, and its answers, in Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.data.batches import Array
from tinybert_cli.data.files import Rows, read_file
from tinybert_cli.errors import InputError, nearest

TRAINING = ("train-", "augmented-", "unlabeled-")


@dataclass(frozen=True)
class Labels:
    """A label dataset: the rows that a teacher was shown, and its logits (N, C)."""

    rows: Rows
    logits: Array

    def select(self, rows: Array) -> Labels:
        return Labels(self.rows.select(rows.tolist()), self.logits[rows])

    def head(self, count: int | None) -> Labels:
        return self if count is None else self.select(np.arange(min(count, len(self.rows))))


def read_labels(folder: Path, files: Iterable[str]) -> Labels:
    """The train, augmented and unlabeled rows of a label dataset; what it holds of other splits is not for training."""
    shards = sorted((name for name in files if name.startswith(TRAINING)), key=lambda name: (_split(name), name))
    if not shards:
        raise InputError(f"'{folder}' has no rows of train or unlabeled", hint="gen-soft-labels: splits: [train]")
    parts = [read_file(folder / name) for name in shards]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    columns = {name: [v for part in parts for v in part.columns.get(name, [None] * len(part))] for name in names}
    logits = np.asarray(columns.pop("teacher_logits"), dtype=np.float32)
    return Labels(Rows(columns, tuple(origin for part in parts for origin in part.origins)), logits)


def _split(name: str) -> int:
    return next(place for place, split in enumerate(TRAINING) if name.startswith(split))


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Columns as one Parquet file, with page checksums."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path, write_page_checksum=True)


def write_labels(path: Path, rows: Rows, logits: Array, *, columns: Mapping[str, Sequence[Any]], dtype: str) -> None:
    """One shard: the input columns, the `columns` of answers, and teacher_logits (N, C)."""
    import pyarrow as pa

    flat = pa.array(logits.astype(dtype).ravel(), type=pa.float16() if dtype == "float16" else pa.float32())
    answers = pa.FixedSizeListArray.from_arrays(flat, logits.shape[-1])
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
