"""Types of columns that pass through a stage: one for all rows, which Parquet stores and gives back unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli.data.stored_columns import StoredColumn
from tinybert_cli.types import Array, Rows

if TYPE_CHECKING:
    import pyarrow as pa


DECIMAL_DIGITS = 38  # of the widest decimal number


def column_types(parts: Iterable[Rows]) -> dict[str, pa.DataType]:
    """The type of each column of all these rows; text for a column whose values have no common type.

    Such values are numbers and texts, mappings with different keys or without any, or integers of more than 64 bits.
    """
    columns: dict[str, list[Sequence[Any]]] = {}
    for rows in parts:
        for name, values in rows.columns.items():
            columns.setdefault(name, []).append(values)
    return {name: _stored_type(several) or _type_of(list(chain(*several))) for name, several in columns.items()}


def common_types(one: Mapping[str, pa.DataType], other: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The type of each column of two parts of a table, from those of the parts; text if they have none in common."""
    import pyarrow as pa

    both = {name: _common(one[name], other[name]) or pa.string() for name in one if name in other}
    return {name: both.get(name, kind) for name, kind in {**one, **other, **both}.items()}


def widened_types(types: Mapping[str, pa.DataType], rows: Rows) -> dict[str, pa.DataType]:
    """The types of the columns of a table that can hold these rows, too."""
    import pyarrow as pa

    own = column_types([rows])
    result = common_types(types, own)
    for name, kind in own.items():
        try:
            if result[name] != kind:
                as_array(rows.columns[name], result[name])
        except pa.ArrowException:
            result[name] = pa.string()
    return result


def converted(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values as another type of the same columns, see `common_types`; None if it cannot hold one of them."""
    import pyarrow as pa

    if values.type == kind:
        return values
    if kind == pa.string():
        return as_array(values.to_pylist(), kind)
    try:
        return values.cast(kind)
    except pa.ArrowException:
        return None


def converted_columns(parts: Sequence[Rows], types: Mapping[str, pa.DataType]) -> list[str]:
    """The columns with values that are stored as text, but are none."""
    import pyarrow as pa

    texts = [name for name, kind in types.items() if kind == pa.string()]
    return [
        name
        for name in texts
        if not all(isinstance(value, str | None) for rows in parts for value in rows.columns.get(name, []))
    ]


def column_type(values: Sequence[Any] | Array | pa.Array) -> pa.DataType:
    """The type of one column, as in `column_types`; of an array its own."""
    import pyarrow as pa

    if isinstance(values, pa.Array):
        return values.type
    if isinstance(values, np.ndarray):
        return pa.from_numpy_dtype(values.dtype)
    return _stored_type([values]) or _type_of(values)


def as_array(values: Sequence[Any] | Array | pa.Array, kind: pa.DataType) -> Any:
    """A column as Arrow stores it: values of a text column that are no text become JSON, or `str` of the value.

    Args:
        kind: from `column_types` or `column_type`.
    """
    import pyarrow as pa

    if isinstance(values, pa.Array):
        return values
    return pa.array(map(_as_text, values) if kind == pa.string() else values, type=kind)


def _stored_type(several: Sequence[Sequence[Any]]) -> pa.DataType | None:
    """The type of stored texts and of lists of texts, which need not be read for it; None for other columns."""
    import pyarrow as pa

    if not all(isinstance(values, StoredColumn) for values in several):
        return None
    arrays = [values.values for values in several if isinstance(values, StoredColumn)]
    if all(array.type == pa.large_string() for array in arrays):
        return pa.string() if any(array.null_count < len(array) for array in arrays) else pa.null()
    is_words = all(pa.types.is_large_list(array.type) for array in arrays)
    return pa.list_(pa.string()) if is_words and any(len(chunk.values) for chunk in _chunks(arrays)) else None


def _chunks(arrays: Sequence[pa.ChunkedArray]) -> Iterator[pa.Array]:
    return (chunk for array in arrays for chunk in array.chunks)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that all values of both have; None if there is none but text."""
    import pyarrow as pa

    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_decimal128(one) and pa.types.is_decimal128(other):
        scale = max(one.scale, other.scale)
        precision = max(one.precision - one.scale, other.precision - other.scale) + scale
        return pa.decimal128(precision, scale) if precision <= DECIMAL_DIGITS else None
    if pa.types.is_list(one) and pa.types.is_list(other):
        kind = _common(one.value_type, other.value_type)
        return None if kind is None else pa.list_(kind)
    if pa.types.is_struct(one) and pa.types.is_struct(other) and {f.name for f in one} == {f.name for f in other}:
        kinds = {field.name: _common(field.type, other.field(field.name).type) for field in one}
        return None if None in kinds.values() else pa.struct(list(kinds.items()))
    return None


def _type_of(values: Sequence[Any]) -> pa.DataType:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds in ({bool}, {float}):
        return pa.bool_() if kinds == {bool} else pa.float64()
    if kinds <= {str}:
        return pa.string() if kinds else pa.null()
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.string()
    same = all(map(_is_same, array.to_pylist(), values))
    return array.type if same and _can_be_stored(array.type) else pa.string()


def _is_same(stored: Any, value: Any) -> bool:
    """Whether Arrow gives the value back, a float for an integer allowed: to it, false is 0.0 among floats."""
    if isinstance(value, list | tuple) and isinstance(stored, list):
        return len(stored) == len(value) and all(map(_is_same, stored, value))
    if isinstance(value, dict) and isinstance(stored, dict):
        return stored.keys() == value.keys() and all(_is_same(stored[key], item) for key, item in value.items())
    return bool(stored == value) and isinstance(stored, bool) == isinstance(value, bool)


def _can_be_stored(kind: pa.DataType) -> bool:
    """Whether Parquet has the type: it has no mappings without keys, and no types of Arrow alone."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return False
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_can_be_stored(kind.field(index).type) for index in range(kind.num_fields))
    return not pa.types.is_nested(kind) or _can_be_stored(kind.value_type)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
