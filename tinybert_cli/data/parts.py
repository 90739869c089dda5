"""Reads a table in parts, so that the memory does not grow with the file: csv, tsv, jsonl and Parquet."""

from __future__ import annotations

import gzip
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.data.conll import is_conll
from tinybert_cli.data.delimited import open_delimited
from tinybert_cli.data.json_files import open_json_lines
from tinybert_cli.data.readers import format_of, parquet_features, parquet_parts, read_file, with_class_names
from tinybert_cli.data.stored_columns import PART, StoredColumns
from tinybert_cli.data.text_files import is_gzip, text_of_line
from tinybert_cli.input_versions import unchanged
from tinybert_cli.types import Rows

SMALL = 4 << 20  # bytes; a smaller file is read at once
LARGE = 32 << 20  # bytes; the rows of a smaller file are Python lists

Parts = Callable[[], Iterator[Rows]]  # the rows of a file, from the first one at each call


def open_parts(path: Path, data: Data) -> Parts:
    """The rows of a file in parts, after the file was checked as `read_file` checks it.

    A small file, a JSON document, a CoNLL file and a text that is not plain UTF-8 are one part, which is in memory.

    Raises:
        InputError: as `read_file`.
    """
    form = format_of(path)
    if form == "parquet" and not is_gzip(path):
        features = parquet_features(path)
        for _ in parquet_parts(path):  # all of it can be read
            pass
        return lambda: _numbered(path, (columns for _, columns in parquet_parts(path)), features)
    if (
        form in ("csv", "tsv", "json", "jsonl", "txt")
        and path.is_file()
        and path.stat().st_size > SMALL
        and _is_plain(path)
    ):
        if form in ("csv", "tsv"):
            header, rows = open_delimited(path, lambda: _lines(path), data, default="," if form == "csv" else "\t")
            return lambda: _numbered(path, _columns(header, rows()))
        if form == "txt":
            if is_conll([line.strip(" \t\r\n") for line in itertools.islice(_lines(path), 1000)]):
                return _whole(path, data)  # raises
            return lambda: _numbered(path, _columns(["text"], zip(filter(None, map(text_of_line, _lines(path))))))
        if (opened := open_json_lines(path, lambda: _lines(path))) is not None:
            names, objects = opened
            return lambda: _numbered(path, _columns(names, ([row.get(name) for name in names] for row in objects())))
    return _whole(path, data)


def read_table(path: Path, data: Data, *, size: int | None = None) -> Rows:
    """The rows of a file; those of a large one are in memory-mapped scratch files, see `stored_columns`.

    Args:
        size: bytes of all files of the split, which are large together; None = of this file.

    Raises:
        InputError: as `read_file`.
    """
    if not path.is_file() or max(size or 0, path.stat().st_size) <= LARGE:
        return read_file(path, data)
    features: dict[str, Any] = {}
    with unchanged(path):
        if format_of(path) == "parquet" and not is_gzip(path):
            features = parquet_features(path)
            parts = _numbered(path, (columns for _, columns in parquet_parts(path)))
        else:
            parts = open_parts(path, data)()
        rows = _stored(parts, one_of_several=path.stat().st_size < (size or 0))
    return read_file(path, data) if rows is None else with_class_names(rows, features) if features else rows


def _stored(parts: Iterator[Rows], *, one_of_several: bool) -> Rows | None:
    """All rows, with stored columns; None if there are no parts.

    A file that is one large part is in memory and stays there, unless the others would be in memory with it.
    """
    first = next(parts, None)
    if first is None or (len(first) > PART and not one_of_several):
        return first
    columns, last = StoredColumns(), first
    for last in itertools.chain([first], parts):
        for begin in range(0, len(last), PART):
            part = {name: values[begin : begin + PART] for name, values in last.columns.items()}
            columns.append(part, min(PART, len(last) - begin))
    return replace(last, columns=columns.finish(), selected=None)


def _whole(path: Path, data: Data) -> Parts:
    whole = read_file(path, data)
    return lambda: iter([whole])


def _columns(names: list[str], rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, list[Any]]]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, PART)):
        yield dict(zip(names, map(list, zip(*part, strict=True)), strict=True))


def _numbered(
    path: Path, parts: Iterator[dict[str, list[Any]]], features: dict[str, Any] | None = None
) -> Iterator[Rows]:
    """The parts as rows whose locations count from the begin of the file."""
    begin = 0
    for columns in parts:
        count = len(next(iter(columns.values()), []))
        selected = list(range(begin, begin + count))
        begin += count
        rows = Rows(columns, ((str(path), begin),), selected=selected)
        yield rows if features is None else with_class_names(rows, features)


def _is_plain(path: Path) -> bool:
    """Whether a file is UTF-8 text with line feeds and without NULs; others are read, or rejected, as a whole."""
    try:
        lines = 0
        for line in _lines(path):
            lines += line.endswith("\n")
            if "\0" in line:
                return False
        return lines > 1
    except (UnicodeDecodeError, EOFError, OSError, ValueError):  # of a damaged gzip file, too
        return False


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")  # type: ignore[type-var]
        first = next(text, "")
        if stripped := re.sub("^\ufeff+", "", first):
            yield stripped
        yield from text
