"""The rows of a file in parts, as they are read: nothing is counted, stored or checked before it is reached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.data.conll import is_conll
from tinybert_cli.data.delimited import stream_delimited
from tinybert_cli.data.json_files import RIGHT_FORM, stream_json_lines
from tinybert_cli.data.local_datasets import saved_parts
from tinybert_cli.data.parallel_files import parallel_files
from tinybert_cli.data.readers import (
    READERS,
    Columns,
    conll_in_txt,
    format_of,
    parquet_features,
    parquet_parts,
    read_file,
    with_class_names,
)
from tinybert_cli.data.streamed_lines import stream_lines
from tinybert_cli.data.text_files import is_gzip, text_of_line
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

Features = dict[str, Any]  # column → its feature, as in the metadata of the `datasets` library


def stream_path(path: Path, data: Data, size: int) -> Iterator[Rows]:
    """The rows of a file, of parallel text files, or of a folder from save_to_disk, in parts of `size`.

    Raises:
        InputError: as `read_file`, once a row is reached; or the format cannot be read as a stream.
    """
    features: Features = {}
    if parallel_files(path):
        parts = _parallel(path, size)
    elif path.is_dir():
        features, parts = saved_parts(path, size)
    elif format_of(path) == "parquet" and not is_gzip(path):
        features, parts = parquet_features(path), _of_size(size, (columns for _, columns in parquet_parts(path)))
    else:
        read = STREAMED.get(format_of(path))
        if read is None:
            raise _unknown(path, data)
        parts = read(path, data, size)
    begin = 0
    for columns in parts:
        count = len(next(iter(columns.values()), []))
        rows = Rows(columns, ((str(path), begin + count),), selected=range(begin, begin + count))
        begin += count
        yield with_class_names(rows, features)


def _unknown(path: Path, data: Data) -> InputError:
    if format_of(path) not in READERS or is_gzip(path):
        read_file(path, data)  # raises
    return InputError(
        f"'{path}' cannot be read as a stream",
        where="data.streaming",
        hint=f"streams: {', '.join([*STREAMED, 'parquet'])}; or leave data.streaming out",
    )


def _delimited(path: Path, data: Data, size: int) -> Iterator[Columns]:
    default = "," if format_of(path) == "csv" else "\t"
    rows = stream_delimited(path, lambda: stream_lines(path), data, default=default)
    return _columns(next(rows), rows, size)


def _json(path: Path, data: Data, size: int) -> Iterator[Columns]:
    objects = stream_json_lines(path, lambda: stream_lines(path))
    if objects is None:
        lines = list(itertools.islice((line for line in stream_lines(path) if line.strip()), 2))
        if len(lines) > 1:
            raise InputError(
                f"'{path}' does not have one JSON object per line, which a stream needs",
                where=f"{path}:1",
                hint=f"{RIGHT_FORM}; or leave data.streaming out",
            )
        yield from _of_size(size, [read_file(path, data).columns])
        return
    names: dict[str, None] = {}
    while part := list(itertools.islice(objects, size)):
        names |= dict.fromkeys(name for row in part for name in row)
        yield {name: [row.get(name) for row in part] for name in names}


def _txt(path: Path, data: Data, size: int) -> Iterator[Columns]:
    if is_conll([line.strip(" \t\r\n") for line in itertools.islice(stream_lines(path), 1000)]):
        raise conll_in_txt(path)
    texts = (text for line in stream_lines(path) if (text := text_of_line(line)))
    return _columns(["text"], ([text] for text in texts), size)


def _parallel(path: Path, size: int) -> Iterator[Columns]:
    files = parallel_files(path)

    def rows() -> Iterator[list[str]]:
        several = [stream_lines(file) for file in files.values()]
        for number, lines in enumerate(itertools.zip_longest(*several), 1):
            if None in lines:
                ended = next(str(file) for file, line in zip(files.values(), lines, strict=True) if line is None)
                raise InputError(
                    f"the files of '{path}' have different numbers of lines: '{ended}' ends before line {number:,}",
                    where=f"{path}:{number}",
                    hint="line n of one file must be the translation of line n of the other",
                )
            yield [line.strip(" \t\r\n") for line in lines]

    return _columns(list(files), rows(), size)


def _columns(names: list[str], rows: Iterable[list[Any]], size: int) -> Iterator[Columns]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, size)):
        yield dict(zip(names, map(list, zip(*part, strict=True)), strict=True))


def _of_size(size: int, parts: Iterable[Columns]) -> Iterator[Columns]:
    """The same rows in parts of at most `size`."""
    for columns in parts:
        for begin in range(0, len(next(iter(columns.values()), [])), size):
            yield {name: values[begin : begin + size] for name, values in columns.items()}


STREAMED: dict[str, Callable[[Path, Data, int], Iterator[Columns]]] = {
    "csv": _delimited,
    "tsv": _delimited,
    "json": _json,
    "jsonl": _json,
    "txt": _txt,
}
