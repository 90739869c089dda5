"""Readers of csv, tsv, json, jsonl, parquet, txt and conll files. Errors give the file and, if known, the line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.data.conll import is_conll, read_conll
from tinybert_cli.data.delimited import read_delimited
from tinybert_cli.data.json_files import read_json
from tinybert_cli.data.stored_columns import joined_columns
from tinybert_cli.data.text_files import (
    check_content,
    is_gzip,
    largest_content,
    read_text,
    split_lines,
    text_of_line,
    too_large,
)
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.input_versions import unchanged
from tinybert_cli.label_values import HIDDEN, all_hidden
from tinybert_cli.types import Rows

BATCH = 1024  # rows of a parquet file that are decoded at a time

Columns = dict[str, list[Any]]


def existing_file(path: Path, where: str) -> Path:
    """`path`, which the setting `where` names; InputError, with the nearest file name, if it is no regular file."""
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(
            f"'{path}' is a folder, not a file",
            where=where,
            hint="give the files in it"
            + (
                "; or, if they are named train.jsonl, validation.csv, ..., set data.dataset_name"
                * where.startswith("data.")
            ),
        )
    if path.exists():
        hint = "a file is read more than once: write the rows to a file first"
        raise InputError(f"'{path}' is a device or a pipe, not a file", where=where, hint=hint)
    if is_address(str(path)):
        raise InputError(f"'{path}' is an address, not a file", where=where, hint="download the file, and name it")
    suggestion = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
    raise InputError(f"'{path}' does not exist", where=where, hint=suggestion)


def is_address(name: str) -> bool:
    """Whether a name is a URL; a single letter before the colon is a drive."""
    return re.match("[a-z0-9]{2,}:/", name) is not None


def format_of(path: Path) -> str:
    """The file extension in lower case, without a final `.gz`."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def read_file(path: Path, data: Data | None = None) -> Rows:
    """All rows of a file, as the settings say.

    Raises:
        InputError: the format is unknown, or the file is malformed, too large for the memory, or changed while it was
            read.
    """
    form, data = format_of(path), data or Data()
    if form not in READERS:
        known = f"one of: {', '.join(READERS)}; .gz too; of two text files, line by line: NAME.{{en,de}}"
        hint = RENAMED.get(form, known)
        raise InputError(f"cannot read '{path}': unknown file format", hint=hint)
    if form == "parquet" and is_gzip(path):
        raise InputError(f"cannot read '{path}': a compressed parquet file", hint="decompress it: gunzip")
    with unchanged(path):
        columns = READERS[form](path, data)
    rows = Rows(columns, ((str(path), len(next(iter(columns.values()), []))),))
    return with_class_names(rows, parquet_features(path)) if form == "parquet" else rows


def with_class_names(rows: Rows, features: Mapping[str, Any]) -> Rows:
    """The rows, with the integers of ClassLabel columns replaced by names.

    Args:
        features: the features of the `datasets` library, by column, as in its metadata.

    Raises:
        InputError: an integer has no name.
    """
    class_names = {name: names for name in rows.columns if (names := _names_of_feature(features.get(name)))}

    def name_of(value: Any, names: list[str], row: int) -> Any:
        if isinstance(value, list):
            return [name_of(item, names, row) for item in value]
        if value is None or value == HIDDEN:
            return None
        if not isinstance(value, int):  # the column was rewritten, and the metadata is that of the old one
            return value
        if not 0 <= value < len(names):
            raise InputError(f"the label {value} has no name; the data names {len(names)}", where=rows.location(row))
        return names[value]

    columns = dict(rows.columns)
    for column, names in class_names.items():
        if not all_hidden(columns[column]):
            columns[column] = [name_of(value, names, row) for row, value in enumerate(columns[column])]
    return replace(rows, columns=columns, class_names=class_names)


def _names_of_feature(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them, in any version of `datasets`; None for other features."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_of_feature(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return _names_of_feature(feature.get("feature"))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of several files, in order. A key that a whole JSON file lacks is null in its rows.

    Raises:
        InputError: the columns of the files differ.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    for part in parts[1:]:
        check_same_columns(first, part)
    columns: dict[str, Any] = {
        name: joined_columns([part.columns.get(name, [None] * len(part)) for part in parts]) for name in names
    }
    class_names = {
        name: list(dict.fromkeys(label for part in parts for label in part.class_names.get(name, [])))
        for name in first.class_names
    }
    return Rows(columns, tuple(origin for part in parts for origin in part.origins), class_names)


def check_same_columns(first: Rows, other: Rows) -> None:
    """InputError if the rows of two files have different columns; a key may be missing in JSON files."""
    lacking = {*(other.columns.keys() ^ first.columns.keys())}
    if lacking and not (_has_optional_keys(other) and _has_optional_keys(first)):
        what = f"columns differ from those of {first.origins[0][0]}: {', '.join(sorted(lacking))}"
        raise InputError(what, where=other.origins[0][0])


def _has_optional_keys(part: Rows) -> bool:
    return format_of(Path(part.origins[0][0])) in ("json", "jsonl")


def _csv(path: Path, data: Data) -> Columns:
    return read_delimited(path, data, default=",")


def _tsv(path: Path, data: Data) -> Columns:
    return read_delimited(path, data, default="\t")


def _json(path: Path, data: Data) -> Columns:
    return read_json(path)


def _txt(path: Path, data: Data) -> Columns:
    """One text per line; empty lines are skipped."""
    lines = split_lines(read_text(path))
    if is_conll(lines[:1000]):
        raise conll_in_txt(path)
    return {"text": [text for line in lines if (text := text_of_line(line))]}


def conll_in_txt(path: Path) -> InputError:
    """The error for a text file with words and tags."""
    return InputError(
        f"'{path}' has a word and its tags per line, but the ending .txt stands for one text per line",
        hint=f"rename it to {path.name.lower().removesuffix('.gz').removesuffix('.txt')}.conll",
    )


def _conll(path: Path, data: Data) -> Columns:
    texts = data.text_column_names
    words = texts if isinstance(texts, str) else texts[0]
    return read_conll(path, data.conll_column_names or [words, data.label_column])


def _parquet(path: Path, data: Data) -> Columns:
    """Decoded in small batches, so that a file that holds too much is noticed before it fills the memory."""
    limit, size = largest_content(), 0
    columns: Columns = {}
    for bytes_of_part, part in parquet_parts(path):
        size += bytes_of_part
        if size > limit:
            raise too_large(path, limit)
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    return columns


def parquet_parts(path: Path) -> Iterator[tuple[int, Columns]]:
    """The rows of a file in parts, each with its size in bytes; a file without rows has one part.

    Raises:
        InputError: the file is no Parquet file, damaged, or has two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as stream:
        check_content(stream.read(64).removeprefix(b"PAR1"), path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise InputError(f"'{path}' has two columns of the same name: '{repeated[0]}'", hint="rename one")
            if not file.metadata.num_rows:
                yield 0, {name: [] for name in names}
            for batch in file.iter_batches(BATCH):
                yield (
                    batch.nbytes,
                    {name: values.to_pylist() for name, values in zip(names, batch.columns, strict=True)},
                )
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values Python cannot hold
        raise InputError(f"cannot read '{path}': {error}") from error


def parquet_features(path: Path) -> dict[str, Any]:
    """The features that the `datasets` library left in the metadata of a Parquet file, by column."""
    import pyarrow.parquet as pq

    try:
        metadata = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        return dict(metadata["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


READERS: dict[str, Callable[[Path, Data], Columns]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "txt": _txt,
    "conll": _conll,
}

RENAMED = {  # other endings → what to do
    **dict.fromkeys(("ndjson", "jsonlines"), "rename it to .jsonl"),
    **dict.fromkeys(("conllu", "bio", "iob", "iob2", "conll2003"), "rename it to .conll"),
    **dict.fromkeys(("pq", "parq"), "rename it to .parquet"),
    "tab": "rename it to .tsv",
    **dict.fromkeys(("xls", "xlsx", "ods"), "save the table as CSV in UTF-8"),
    **dict.fromkeys(("zip", "tar", "tgz", "7z", "rar"), "unpack it, and name a file in it"),
    "arrow": "give the folder that datasets wrote with save_to_disk as data.dataset_name",
}
