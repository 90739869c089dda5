"""A split as a stream: its rows part by part, from local files or the Hub, and a digest of what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.data.hub_datasets import HubStream, State
from tinybert_cli.data.parallel_files import parallel_files
from tinybert_cli.data.readers import check_same_columns
from tinybert_cli.data.splits import (
    Split,
    most_rows,
    no_rows,
    no_source,
    on_hub,
    paths_of,
    split_name,
    with_label_names,
)
from tinybert_cli.data.streamed_files import stream_path
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

PART = 1024  # rows that are read at a time


class Stream(Protocol):
    """The rows of a split."""

    @property
    def origin(self) -> str:
        """Its files or its dataset, for messages."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What identifies it, for the manifest."""

    def parts(self, size: int, *, begin: int = 0, state: State | None = None) -> Iterator[Rows]:
        """The rows in parts of at most `size`.

        Args:
            state: from `state()`, after `begin` rows; None: from the first row.

        Raises:
            InputError: a row is malformed, or the stream breaks.
        """

    def state(self) -> State | None:
        """Where the stream is: after the parts that were read; None: it starts from the first row each time."""


class FileStream:
    """The rows of local files, one after the other."""

    facts: Mapping[str, Any] = {}  # its files are inputs of the run

    def __init__(self, paths: Sequence[Path], data: Data) -> None:
        self.paths, self.data = list(paths), data
        self.origin = ", ".join(map(str, paths))
        self._before = {file: _stamp(file) for file in self._files()}

    def parts(self, size: int, *, begin: int = 0, state: State | None = None) -> Iterator[Rows]:
        """See `Stream`.

        Raises:
            InputError: the columns of two files differ, or a file was changed while it was read.
        """
        first: Rows | None = None
        for path in self.paths:
            rows: Rows | None = None
            try:
                for rows in stream_path(path, self.data, size):
                    first = first or rows
                    check_same_columns(first, rows)
                    yield rows
            except OSError as error:
                after = f"{path}, after row {rows.selected[-1] + 1:,}" if rows and rows.selected else str(path)
                raise InputError(f"the stream of '{path}' broke: {error}", where=after) from error
            self.check_unchanged([path])

    def state(self) -> State | None:
        return None

    def check_unchanged(self, paths: Iterable[Path] | None = None) -> None:
        """InputError if one of these files, or any, was changed since the stream was opened."""
        for file in self._files() if paths is None else [one for path in paths for one in files_of(path)]:
            if _stamp(file) != self._before[file]:
                hint = "run the same command again when nothing writes to it any more"
                raise InputError(f"'{file}' was changed while it was read", hint=hint)

    def _files(self) -> list[Path]:
        return [file for path in self.paths for file in files_of(path)]


def open_stream(data: Data, split: Split, *, revision: str | None = None) -> Stream:
    """The rows of a split, which are not read yet.

    Args:
        revision: the commit of a Hub dataset that an earlier run has read.

    Raises:
        ConfigError: the config names no source for this split.
        InputError: a source is missing.
    """
    if paths := paths_of(data, split):
        return FileStream(paths, data)
    if on_hub(data) and split != "unlabeled":
        return HubStream(data, split, split_name(data, split), revision)
    raise no_source(data, split)


def stream_shards(
    stream: Stream, data: Data, size: int, *, most: int | None, first: int = 0, state: State | None = None
) -> Iterator[Rows]:
    """The rows of a stream in shards of `size`, with the label names of the config; only the last may be smaller.

    Args:
        most: ends after so many rows; None: at the end of the stream.
        first: the number of the first shard, with the `state` of the stream before it.
    """
    count = first * size
    if most is not None and count >= most:
        return
    rest: list[Rows] = []
    for part in stream.parts(min(PART, size), begin=count, state=state):
        part = part if most is None else part.head(most - count)
        count += len(part)
        waiting = sum(len(one) for one in rest)
        rest.append(part.head(size - waiting))
        if waiting + len(part) >= size:
            yield _joined(rest, data)
            rest = [part.select(range(size - waiting, len(part)))] if waiting + len(part) > size else []
        if count == most:
            break
    if rest:
        yield _joined(rest, data)


def first_rows(data: Data, split: Split, count: int) -> Rows:
    """The first `count` rows of a split that is read as a stream.

    Raises:
        InputError: there are none, or one of them is malformed.
    """
    stream = open_stream(data, split)
    rows = next(stream_shards(stream, data, count, most=most_rows(data, split)), None)
    if rows is None:
        raise no_rows([stream.origin])
    return rows


def rows_digest(rows: Rows) -> str:
    """sha256 of the values of all columns, in the order of the rows."""
    values = {name: list(rows.columns[name]) for name in sorted(rows.columns)}
    text = json.dumps(values, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def files_of(path: Path) -> list[Path]:
    """The files that a path of the config stands for: several if it names parallel files, or is a folder."""
    if parallel_files(path):
        return list(parallel_files(path).values())
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _joined(parts: Sequence[Rows], data: Data) -> Rows:
    """Consecutive rows of a stream; a column that some lack is null there."""
    names = dict.fromkeys(name for part in parts for name in part.columns)
    columns = {
        name: [value for part in parts for value in part.columns.get(name, [None] * len(part))] for name in names
    }
    origins: dict[str, int] = {}
    selected: list[np.ndarray[Any, Any]] = []
    for part in parts:
        ((origin, count),) = part.origins
        before = sum(other for name, other in origins.items() if name != origin)
        origins[origin] = count
        assert part.selected is not None  # see `Stream.parts`
        selected.append(before + np.asarray(part.selected))
    class_names = {
        name: list(dict.fromkeys(label for part in parts for label in part.class_names.get(name, [])))
        for name in dict.fromkeys(name for part in parts for name in part.class_names)
    }
    rows = Rows(columns, tuple(origins.items()), class_names, np.concatenate(selected))
    return with_label_names(rows, data)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
