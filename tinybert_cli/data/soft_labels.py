"""Label datasets: rows with the logits of a teacher, in Parquet.

Shapes: N rows, P predictions (in most tasks one per row), C numbers of one prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli.data.column_types import as_array, column_type
from tinybert_cli.data.stored_columns import StoredColumns, joined_columns
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.scratch_files import GrowingArray, bound_mapped_memory
from tinybert_cli.types import Array, Layout, Rows, concatenated_ranges, first_infinite_row

if TYPE_CHECKING:
    import pyarrow as pa

TRAINING_PREFIXES = ("train-", "augmented-", "unlabeled-")  # of the shards to train on, in the order they are read
ROW_GROUP = 1 << 15  # rows of a Parquet file that are in memory at a time
LARGE = 32 << 20  # bytes; the columns of a smaller label dataset are Python lists
LOGITS, PREDICTION = "teacher_logits", "teacher_prediction"  # the columns that a label dataset adds
TOKEN_SPANS = "teacher_token_spans"  # ... if the predictions are those of tokens
AUGMENTED, UNLABELED = map(TRAINING_PREFIXES.index, ("augmented-", "unlabeled-"))


@dataclass(frozen=True)
class SoftLabels:
    """A label dataset: N rows and the teacher's logits for them, before any threshold is applied."""

    rows: Rows
    logits: Array  # (P, C)
    layout: Layout | None = None  # which predictions each row has; None: one each
    split_indices: Array | None = None  # (N,) index into TRAINING_PREFIXES of each row; None: all rows are in train
    unlabelled: int = 0  # rows of the label dataset without a label, which are not among these

    @property
    def originals(self) -> Rows:
        """The rows that are not augmented examples."""
        if self.split_indices is None or not (self.split_indices == AUGMENTED).any():
            return self.rows
        return self.rows.select(np.flatnonzero(self.split_indices != AUGMENTED).tolist())

    def with_gold_of_train(self, names: Sequence[str]) -> SoftLabels:
        """The same with null in these label columns in the rows of unlabeled, whatever their file has there."""
        count = 0 if self.split_indices is None else int((self.split_indices == UNLABELED).sum())
        if not count:
            return self
        others = self.rows.head(len(self.rows) - count)  # unlabeled is read last
        present = [name for name in names if name in self.rows.columns]
        columns: dict[str, Any] = {name: joined_columns([others.columns[name], [None] * count]) for name in present}
        return replace(self, rows=replace(self.rows, columns={**self.rows.columns, **columns}))

    def prediction_indices(self, rows: Array) -> Array:
        """Indices of the predictions of these rows, in the order of the rows."""
        return rows if self.layout is None else concatenated_ranges(self.layout.row_offsets, rows)

    def select(self, rows: Array) -> SoftLabels:
        """Only these rows (indices), in this order, with their predictions."""
        return SoftLabels(
            self.rows.select(rows.tolist()),
            self.logits[self.prediction_indices(rows)],
            None if self.layout is None else self.layout.select(rows),
            None if self.split_indices is None else self.split_indices[rows],
            self.unlabelled,
        )

    def head(self, count: int | None) -> SoftLabels:
        """The first `count` rows of train and of unlabeled, see `first_rows`."""
        rows = self.first_rows(count)
        return self if rows is None else self.select(rows)

    def first_rows(self, count: int | None) -> Array | None:
        """Indices of the first `count` rows of train and of unlabeled; None = all rows.

        The augmented examples are made from all rows of train: if one of these is left out, so are they.
        """
        indices = np.zeros(len(self.rows), dtype=int) if self.split_indices is None else self.split_indices
        of_splits = [np.flatnonzero(indices == index) for index in range(len(TRAINING_PREFIXES))]
        train, augmented, unlabeled = of_splits
        if count is None or max(len(train), len(unlabeled)) <= count:
            return None
        return np.concatenate([train[:count], augmented if len(train) <= count else augmented[:0], unlabeled[:count]])


def read_soft_labels(folder: Path, files: Iterable[str]) -> SoftLabels:
    """The train, augmented and unlabeled rows of a label dataset that have a label; its other splits are ignored.

    Args:
        folder: the label dataset.
        files: names of its files.

    Raises:
        InputError: there are no such rows, a file is damaged, or a logit is NaN or infinite.
    """
    shards = training_shards(files)
    if not shards:
        raise InputError(f"'{folder}' has no rows of train or unlabeled", hint="gen-soft-labels: splits: [train]")
    size = sum(path.stat().st_size for name in shards if (path := folder / name).is_file())
    columns, flat, width = StoredColumns(in_memory=size <= LARGE), GrowingArray(np.float32), 0
    origins: list[tuple[str, int]] = []
    layouts: list[Layout | None] = []
    has_label: list[Array] = []
    for name in shards:
        shard = _read_shard(folder / name)
        _check_finite(shard)
        columns.append(shard.rows.columns, len(shard.rows))
        flat.append(shard.logits)
        width = shard.logits.shape[-1] or width
        origins += shard.rows.origins
        layouts.append(shard.layout)
        has_label.append(shard.labelled)
    rows, labelled = Rows(columns.finish(), tuple(origins)), np.concatenate(has_label)
    if not labelled.any():
        raise InputError(f"no row of '{folder}' has a label of the teacher", hint="check the answers of the teacher")
    rows = rows if labelled.all() else rows.select(np.flatnonzero(labelled).tolist())
    logits = flat.finish().reshape(-1, width)
    split_indices = np.repeat([_split_index(name) for name in shards], list(map(len, has_label)))[labelled]
    return SoftLabels(rows, logits, _concatenated(layouts), split_indices, int((~labelled).sum()))


def _check_finite(shard: _Shard) -> None:
    infinite = first_infinite_row(shard.logits, shard.layout)
    if infinite is not None:
        raise InputError(
            "teacher_logits is NaN or infinite",
            where=shard.rows.location(int(np.flatnonzero(shard.labelled)[infinite])),
            hint="run gen-soft-labels again with --force",
        )


def training_shards(files: Iterable[str]) -> list[str]:
    """The files of a label dataset that have rows to train on, in the order in which they are read."""
    shards = [name for name in files if name.startswith(TRAINING_PREFIXES) and name.endswith(".parquet")]
    return sorted(shards, key=lambda name: (_split_index(name), name))


@dataclass(frozen=True)
class _Shard:
    """One file of a label dataset."""

    rows: Rows
    logits: Array  # of the labelled rows
    layout: Layout | None  # ... too
    labelled: Array  # (N,) whether a row has a label


def _read_shard(path: Path) -> _Shard:
    """One file; its numbers never become Python lists, which take ten times the memory."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read '{path}': {error}") from error
    names = [name for name in (LOGITS, TOKEN_SPANS) if name in table.column_names]
    rows = Rows(table.drop_columns(names).to_pydict(), ((str(path), len(table)),))
    has_label = pc.is_valid(table.column(LOGITS))
    labelled = has_label.to_numpy()
    table = table if labelled.all() else table.filter(has_label)
    numbers = {name: table.column(name).combine_chunks() for name in names}
    logits, row_offsets = _flat(numbers[LOGITS])
    if row_offsets is None:
        return _Shard(rows, logits.astype(np.float32), None, labelled)
    token_spans = _flat(numbers[TOKEN_SPANS])[0].astype(np.int32) if TOKEN_SPANS in numbers else None
    return _Shard(rows, logits.astype(np.float32), Layout(row_offsets, token_spans), labelled)


def _flat(lists: pa.Array) -> tuple[Array, Array | None]:
    """Lists of C numbers → (N, C), None; lists of such lists → (P, C), and where those of each row begin (N + 1,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    row_offsets = None
    if pa.types.is_nested(lists.type.value_type):
        row_offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))])
        lists = lists.flatten()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    width = lists.type.list_size if pa.types.is_fixed_size_list(lists.type) else len(values) // max(1, len(lists))
    return values.reshape(len(lists), width), row_offsets


def _concatenated(layouts: Sequence[Layout | None]) -> Layout | None:
    """Of several files, one after the other."""
    several = [layout for layout in layouts if layout is not None]
    if not several:
        return None
    counts = np.concatenate([np.diff(layout.row_offsets) for layout in several])
    spans = [layout.token_spans for layout in several if layout.token_spans is not None]
    return Layout(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(spans) if spans else None)


def _split_index(name: str) -> int:
    return next(index for index, prefix in enumerate(TRAINING_PREFIXES) if name.startswith(prefix))


def write_table(
    path: Path,
    columns: Mapping[str, Sequence[Any] | Array],
    types: Mapping[str, pa.DataType] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Columns as one Parquet file, with page checksums.

    Args:
        types: of the columns, from `column_types`; the other columns have the type of their values. A column that is
            only here is null, so that all files with the same types have the same schema.
        metadata: of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(next(iter(columns.values())))
    missing = [None] * count if types and not types.keys() <= columns.keys() else []
    values = {name: columns.get(name, missing) for name in types or {}} | dict(columns)
    kinds = {name: (types or {}).get(name) or column_type(column) for name, column in values.items()}
    schema = pa.schema(kinds, metadata=dict(metadata or {}))
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for begin in range(0, max(1, count), ROW_GROUP):
            part = {name: as_array(column[begin : begin + ROW_GROUP], kinds[name]) for name, column in values.items()}
            writer.write_table(pa.table(part, schema=schema))
            bound_mapped_memory()


def write_soft_labels(
    path: Path,
    rows: Rows,
    logits: Array,
    layout: Layout | None,
    *,
    columns: Mapping[str, Sequence[Any]],
    dtype: str,
    types: Mapping[str, pa.DataType] | None = None,
    labelled: Array | None = None,
) -> None:
    """Write one shard: the columns of the rows, the prediction `columns`, and `teacher_logits`.

    Args:
        path: the Parquet file.
        rows: N rows.
        logits: (P, C).
        layout: which predictions each row has: teacher_logits is then a list of lists of C numbers; with token spans
            there is a column `teacher_token_spans`, too. None: one prediction per row, teacher_logits is a list of C
            numbers.
        columns: name → N values.
        dtype: float32 or float16.
        types: of the columns of the rows, the same for all shards; None = those of these rows.
        labelled: which rows (N,) have a label, the others get null; None = all.
    """
    import pyarrow as pa

    mask = None if labelled is None or labelled.all() else pa.array(~labelled)
    flat = pa.array(logits.astype(dtype).ravel(), type=pa.float16() if dtype == "float16" else pa.float32())
    own = mask if layout is None else None
    teacher_logits = pa.FixedSizeListArray.from_arrays(flat, logits.shape[-1], mask=own)
    answers = {LOGITS: teacher_logits}
    if layout is not None:
        offsets = pa.array(layout.row_offsets, type=pa.int32())
        answers[LOGITS] = pa.ListArray.from_arrays(offsets, teacher_logits, mask=mask)
        if layout.token_spans is not None:
            flat = pa.array(layout.token_spans.ravel(), type=pa.int32())
            spans = pa.FixedSizeListArray.from_arrays(flat, layout.token_spans.shape[-1])
            answers[TOKEN_SPANS] = pa.ListArray.from_arrays(offsets, spans, mask=mask)
    write_table(path, {**rows.columns, **columns, **answers}, types)


def check_names(rows: Rows) -> None:
    """InputError if the rows have a column that the label dataset adds."""
    if taken := [name for name in (LOGITS, PREDICTION, TOKEN_SPANS) if name in rows.columns]:
        raise InputError(
            f"the data has a column '{taken[0]}', which the label dataset adds",
            where=rows.origins[0][0],
            hint="rename the column, or leave it out",
        )


def existing_folder(name: str, key: str) -> Path:
    """The finished folder of an earlier stage; InputError, with the nearest name, if it is missing or unfinished."""
    path = Path(name)
    if not path.is_dir():
        suggestion = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise InputError(
            f"there is no folder '{name}'",
            where=key,
            hint=suggestion or "run the stage that writes it first: gen-soft-labels",
        )
    if not (path / "manifest.json").exists():
        unfinished = "unfinished: wait for gen-soft-labels if it is still running, else run it again"
        what = unfinished if (path / "checkpoints").exists() else "not a label dataset"
        raise InputError(f"'{name}' is {what}", where=key, hint="it has no manifest.json, which is written last")
    return path
