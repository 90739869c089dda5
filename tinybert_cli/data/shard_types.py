"""The same columns in all shards of a label dataset whose rows were not all known when the first one was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_cli.data.column_types import common_types, converted
from tinybert_cli.data.soft_labels import write_table

if TYPE_CHECKING:
    import pyarrow as pa

Types = dict[str, "pa.DataType"]


def types_of_shards(paths: Sequence[Path], added: Sequence[str]) -> Types:
    """The types of the columns of the data that can hold the values of all shards, as `column_types` of all rows.

    Args:
        added: names of the columns that a label dataset adds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: Types = {}
    for path in paths:
        types = common_types(types, _types_of(path, added))
    for name, kind in types.items():
        for path in paths:
            own = _types_of(path, added).get(name)
            if own not in (None, kind) and kind != pa.string():
                column = pq.read_table(path, columns=[name]).column(name).combine_chunks()
                if converted(column, kind) is None:
                    types[name] = pa.string()
    return types


def columns_that_became_text(paths: Sequence[Path], types: Types) -> list[str]:
    """The columns that are text in these types, and neither text nor null in one of the shards."""
    import pyarrow as pa

    return [
        name
        for name, kind in types.items()
        if kind == pa.string()
        and any(_types_of(path, []).get(name, pa.null()) not in (pa.string(), pa.null()) for path in paths)
    ]


def has_types(path: Path, types: Types, added: Sequence[str]) -> bool:
    """Whether a shard has these columns of the data, in this order and with these types."""
    return list(_types_of(path, added).items()) == list(types.items())


def write_with_types(path: Path, target: Path, types: Types, added: Sequence[str]) -> None:
    """Writes a shard again, with these columns of the data; one that it lacks is null."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, page_checksum_verification=True)
    values = {name: table.column(name).combine_chunks() for name in table.column_names}
    columns = {name: array if name in added else converted(array, types[name]) for name, array in values.items()}
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    write_table(target, {name: _renamed(array) for name, array in columns.items()}, types, metadata)


def _renamed(array: pa.Array) -> pa.Array:
    """The same values, with the name of list items that Arrow gives them: Parquet changes it."""
    return array.cast(_default(array.type))


def _default(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_default(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_default(kind.value_type))
    return pa.struct([(field.name, _default(field.type)) for field in kind]) if pa.types.is_struct(kind) else kind


def _types_of(path: Path, added: Sequence[str]) -> Types:
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    return {field.name: field.type for field in schema if field.name not in added}
