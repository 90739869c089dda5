"""Columns of large tables: Arrow arrays in memory-mapped scratch files, which read like lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tinybert_cli.scratch_files import ScratchFile, has_read
from tinybert_cli.types import Array

if TYPE_CHECKING:
    import pyarrow as pa

PART = 4096  # values that are Python objects at a time


class StoredColumn(Sequence[Any]):
    """A column of an Arrow table; a value becomes a Python object when it is read, and a slice a list."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            return self.values[index].as_py()
        begin, end, step = index.indices(len(self))
        if step != 1:
            return [self.values[one].as_py() for one in range(begin, end, step)]
        part = self.values.slice(begin, max(0, end - begin))
        has_read(part.nbytes)
        return part.to_pylist()

    def __iter__(self) -> Iterator[Any]:
        for begin in range(0, len(self), PART):
            yield from self[begin : begin + PART]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def select(self, indices: Sequence[int]) -> StoredColumn:
        """The values at these indices: a range is a view, others are copied to a file of their own."""
        if isinstance(indices, range) and indices.step == 1:
            return StoredColumn(self.values.slice(indices.start, len(indices)))
        file = _ArrowFile(self.values.type)
        chunks = self.values.chunks
        begins = np.cumsum([0, *map(len, chunks)])
        for begin in range(0, len(indices), PART):
            part = _take(chunks, begins, np.asarray(indices[begin : begin + PART], dtype=np.int64))
            has_read(part.nbytes)
            file.append(part)
        return file.finish()


def _take(chunks: Sequence[pa.Array], begins: Array, indices: Array) -> pa.Array:
    """The values at these indices of a column in chunks, of which each begins at one of `begins`.

    `ChunkedArray.take` would join all the chunks first, and so copy the whole column into memory.
    """
    import pyarrow as pa

    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    numbers = np.searchsorted(begins, ordered, side="right") - 1
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ordered)]
    parts = [
        chunks[numbers[first]].take(pa.array(ordered[first:last] - begins[numbers[first]]))
        for first, last in itertools.pairwise(cuts)
    ]
    return pa.concat_arrays(parts).take(pa.array(np.argsort(order)))


class StoredColumns:
    """The columns of a table that is read in parts; a column whose values are of several types becomes a list."""

    def __init__(self, *, in_memory: bool = False) -> None:
        self._in_memory = in_memory  # all columns are lists
        self._writers: dict[str, _ColumnWriter] = {}
        self._count = 0

    def append(self, columns: Mapping[str, Sequence[Any]], count: int) -> None:
        """Appends `count` rows; a column that they lack, or that earlier rows lacked, is null there."""
        for name in columns:
            if name not in self._writers:
                self._writers[name] = _ColumnWriter([] if self._in_memory else None)
                if self._count:
                    self._writers[name].append([None] * self._count)
        for name, writer in self._writers.items():
            values = columns.get(name)
            writer.append([None] * count if values is None else values)
        self._count += count

    def finish(self) -> dict[str, Any]:
        """All columns by their names."""
        return {name: writer.finish() for name, writer in self._writers.items()}


def joined_columns(columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The values of several columns, one after the other: a stored column, if one of them is, else a list.

    Stored columns stay where they are. If their types differ, the result is a list, too.
    """
    import pyarrow as pa

    parts = [values for values in columns if len(values)]
    if any(isinstance(values, StoredColumn) for values in parts):
        stored = [values if isinstance(values, StoredColumn) else _as_stored(values) for values in parts]
        arrays = [values.values for values in stored if isinstance(values, StoredColumn)]
        kinds = {array.type for array in arrays if array.null_count < len(array)} or {pa.large_string()}
        if len(arrays) == len(parts) and len(kinds) == 1:
            (kind,) = kinds
            chunks = [
                chunk if chunk.type == kind else pa.nulls(len(chunk), kind)
                for array in arrays
                for chunk in array.chunks
            ]
            return StoredColumn(pa.chunked_array(chunks, kind))
    return list(itertools.chain(*parts))


def _as_stored(values: Sequence[Any]) -> Sequence[Any]:
    columns = StoredColumns()
    for begin in range(0, len(values), PART):
        part = values[begin : begin + PART]
        columns.append({"values": part}, len(part))
    stored: Sequence[Any] = columns.finish()["values"]
    return stored


class _ColumnWriter:
    """Appends the values of a column to a scratch file."""

    def __init__(self, values: list[Any] | None) -> None:
        self._file: _ArrowFile | None = None
        self._values = values  # all of them, if they are of several types
        self._nulls = 0  # values before the first one that tells the type

    def append(self, values: Sequence[Any]) -> None:
        if self._values is None and all(value is None for value in values):
            if self._file is None:
                self._nulls += len(values)
            else:
                self._file.append(values)
            return
        kind = _kind(values)
        if self._values is None and self._file is not None and kind != self._file.kind:
            self._values = list(self._file.finish())
        if self._values is None and self._file is None:
            if kind is None:
                self._values = [None] * self._nulls
            else:
                self._begin(kind)
        if self._values is not None:
            self._values.extend(values)
        elif self._file is not None:
            self._file.append(values)

    def finish(self) -> Sequence[Any]:
        import pyarrow as pa

        if self._values is not None:
            return self._values
        if self._file is None:
            self._begin(pa.large_string())
        assert self._file is not None
        return self._file.finish()

    def _begin(self, kind: pa.DataType) -> None:
        self._file = _ArrowFile(kind)
        for begin in range(0, self._nulls, PART):
            self._file.append([None] * min(PART, self._nulls - begin))


class _ArrowFile:
    """Arrow arrays of one type, appended to a scratch file."""

    def __init__(self, kind: pa.DataType) -> None:
        import pyarrow as pa

        self.kind = kind
        self._file = ScratchFile()
        self._stream = pa.ipc.new_stream(pa.PythonFile(_Sink(self._file), mode="w"), pa.schema({"values": kind}))

    def append(self, values: pa.Array | Sequence[Any]) -> None:
        import pyarrow as pa

        self._stream.write_batch(pa.record_batch({"values": pa.array(values, type=self.kind)}))

    def finish(self) -> StoredColumn:
        import pyarrow as pa

        self._stream.close()
        return StoredColumn(pa.ipc.open_stream(pa.py_buffer(self._file.mapped())).read_all().column("values"))


class _Sink:
    """A scratch file as pyarrow writes to one."""

    closed = False

    def __init__(self, file: ScratchFile) -> None:
        self.write = file.write

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """The file is closed when it is mapped."""


def _kind(values: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type that gives these values back unchanged; None if there is none."""
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {str}:
        return pa.large_string()
    if kinds == {list}:
        is_text = all(type(item) is str for value in values for item in value or ())
        return pa.large_list(pa.large_string()) if is_text else None
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.int64()
    return {bool: pa.bool_(), float: pa.float64()}.get(next(iter(kinds))) if len(kinds) == 1 else None


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)
