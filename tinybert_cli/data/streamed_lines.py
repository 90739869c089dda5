"""The lines of a text file one by one, decompressed and decoded as they are read, however large the file is."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tinybert_cli.data.text_files import (
    EMPTY,
    PIECE,
    check_content,
    damaged_gzip,
    encoding_of,
    has_nuls,
    is_gzip,
    largest_content,
    not_as_marked,
    not_utf8,
)
from tinybert_cli.errors import InputError


def stream_lines(path: Path) -> Iterator[str]:
    """The lines with their ends, without byte order marks.

    They end at line feeds or, if the first piece of the file has none, at carriage returns.

    Raises:
        InputError: the file is empty, damaged, not UTF-8 (or UTF-16 with its mark), has NULs, or a line that is too
            long for the memory; names the line, once it is reached.
    """
    with gzip.open(path) if is_gzip(path) else path.open("rb", buffering=PIECE) as opened:
        file = cast(BinaryIO, opened)
        number, is_blank, head = 0, True, ""
        try:
            begin = _first_piece(file)
            check_content(begin[:64], path)
            encoding = encoding_of(begin)
            lines = _decoded(path, file, begin) if encoding == "utf-8" else _marked(path, file, encoding, begin)
            for number, line in enumerate(lines, 1):
                text = line.lstrip("\ufeff") if number == 1 else line
                head = head or text[:256]
                if "\0" in text:
                    raise has_nuls(path, head, number)
                is_blank = is_blank and not text.strip()
                yield text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged_gzip(path, error, f"{path}:{number + 1}" if number else None) from error
        if is_blank:
            raise InputError(f"'{path}' is empty", hint=EMPTY)


def _first_piece(file: BinaryIO) -> bytes:
    """The first bytes; the file is then at its begin again."""
    begin = file.read(PIECE)
    file.seek(0)
    return begin


def _decoded(path: Path, file: BinaryIO, begin: bytes) -> Iterator[str]:
    """The lines of a UTF-8 file."""
    if b"\r" in begin and b"\n" not in begin:
        yield from _wrapped(path, file, "utf-8", "\r")
        return
    limit, number = largest_content(), 0
    while raw := file.readline(limit):
        number += 1
        if len(raw) == limit:
            raise InputError(
                f"a line has {limit:,} bytes or more, too many for the free memory",
                where=f"{path}:{number}",
                hint="a stream is read line by line: write one row per line",
            )
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(path, number) from error


def _marked(path: Path, file: BinaryIO, encoding: str, begin: bytes) -> Iterator[str]:
    """The lines of a file in the encoding of its byte order mark."""
    sample = begin[: len(begin) // 4 * 4].decode(encoding, errors="replace")
    yield from _wrapped(path, file, encoding, "\r" if "\r" in sample and "\n" not in sample else "\n")


def _wrapped(path: Path, file: BinaryIO, encoding: str, newline: str) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(io.TextIOWrapper(file, encoding=encoding, newline=newline), 1):
            if newline == "\r" and "\n" in line:
                raise InputError(
                    "a line feed in a file whose lines ended at carriage returns until here",
                    where=f"{path}:{number}",
                    hint="write the file with one kind of line ends",
                )
            yield line
    except UnicodeDecodeError as error:
        raise (not_utf8(path, number + 1) if encoding == "utf-8" else not_as_marked(path, encoding)) from error
