"""Text files as text: decompressed in bounded pieces, decoded, and split into lines."""

from __future__ import annotations

import codecs
import gzip
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path

from tinybert_cli.errors import InputError
from tinybert_cli.memory import free_memory

PIECE = 1 << 20  # bytes that are decompressed at a time
MEMORY_SHARE = 8  # a file may hold an eighth of the free memory: its rows and their tokens take several times its size
_LARGEST_RATIO = 1032  # of deflate: no gzip holds more than this many times its own size

_ENCODINGS = (  # marks at the start of a file; that of UTF-32 starts like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = (  # first bytes of files that are no text → what they are, and what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"),
    (b"\x1f\x8b", "compressed with gzip", "add .gz to its name"),
    (b"PAR1", "a Parquet file", "rename it: its name must end in .parquet"),
    (b"PK\x03\x04", "a zip or Excel file", "unpack it, or save the table as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an Excel file", "save the table as CSV in UTF-8"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it: zstd -d"),
    (b"BZh", "compressed with bzip2", "decompress it: bunzip2"),
    (b"<!doctype html", "a web page, not the file itself", "download the file: it may need a login or another address"),
    (b"<html", "a web page, not the file itself", "download the file: it may need a login or another address"),
    (b"\xfd7zXZ", "compressed with xz", "decompress it: unxz"),
)


EMPTY = "check the path, and the program that wrote the file"


def read_text(path: Path) -> str:
    """The text of a file, decompressed if its name ends in .gz, without byte order marks.

    Raises:
        InputError: it is too large for the memory, damaged, empty, not UTF-8 (or UTF-16 with its mark), or has NULs.
    """
    raw = _contents(path)
    check_content(raw[:64], path)
    encoding = encoding_of(raw)
    try:
        text = raw.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise not_as_marked(path, encoding) from error
        raise not_utf8(path, raw[: error.start].count(b"\n") + 1) from error
    if not text.strip():
        raise InputError(f"'{path}' is empty", hint=EMPTY)
    if "\0" in text:
        raise has_nuls(path, text[:256], text.count("\n", 0, text.index("\0")) + 1)
    return text


def encoding_of(begin: bytes) -> str:
    """The encoding that the first bytes of a text file mark; UTF-8 if they mark none."""
    return next((name for mark, name in _ENCODINGS if begin.startswith(mark)), "utf-8")


def not_utf8(path: Path, line: int) -> InputError:
    """The error for a file that is not UTF-8 in this line."""
    return InputError(f"'{path}' is not UTF-8", where=f"{path}:{line}", hint=_convert(path, "WINDOWS-1252"))


def not_as_marked(path: Path, encoding: str) -> InputError:
    """The error for a file that does not have the encoding of its byte order mark."""
    return InputError(f"'{path}' is not valid {encoding.upper()}, as its byte order mark says")


def has_nuls(path: Path, begin: str, line: int) -> InputError:
    """The error for a file that begins like this, and has a NUL in this line."""
    where = f"{path}:{line}"
    if begin.count("\0") > len(begin) // 4:
        encoding = "UTF-16BE" if begin.startswith("\0") else "UTF-16LE"
        what = f"'{path}' seems to be UTF-16 without a byte order mark"
        return InputError(what, where=where, hint=_convert(path, encoding))
    hint = f"remove them: {_print_command(path)} | tr -d '\\000' > {_new_name(path)}"
    return InputError(f"'{path}' contains NUL bytes", where=where, hint=hint)


def damaged_gzip(path: Path, error: Exception, where: str | None = None) -> InputError:
    """The error for a file that is no gzip file, or not all of one."""
    plain = isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file")
    hint = "if it is not compressed, remove .gz from its name" if plain else "copy or download it again"
    return InputError(f"'{path}' is not a complete gzip file: {error}", where=where, hint=hint)


def split_lines(text: str) -> list[str]:
    """The lines, without their ends: line feeds, or carriage returns in a file that has no line feeds.

    U+2028, U+0085 and form feeds are part of the text.
    """
    return [line.removesuffix("\r") for line in text.split(_line_end(text))]


def text_of_line(line: str) -> str:
    """A line of a .txt file as the text of a row, without blanks around it; empty if it has only white space."""
    return line.strip(" \t\r\n") if line.strip() else ""


def lines_with_ends(text: str) -> Iterator[str]:
    """The same lines, one by one, with their ends."""
    end, begin = _line_end(text), 0
    while begin < len(text):
        stop = text.find(end, begin) + 1 or len(text)
        yield text[begin:stop]
        begin = stop


def check_content(begin: bytes, path: Path) -> None:
    """InputError if the first bytes of a file are those of another format."""
    for magic, what, hint in _OTHER_FORMATS:
        if begin.startswith(magic) or begin.lstrip().lower().startswith(magic):
            raise InputError(f"'{path}' is {what}", hint=hint)


def largest_content() -> int:
    """How many bytes of rows may be read from one file, given the free memory."""
    return free_memory() // MEMORY_SHARE


def too_large(path: Path, limit: int) -> InputError:
    """The error for a file that holds more than `limit` bytes."""
    return InputError(
        f"'{path}' holds more than {limit / 1e9:.2g} GB, too much for the {limit * MEMORY_SHARE / 1e9:.2g} GB of free "
        "memory",
        hint="use a machine with more memory, or write a part of the rows to another file",
    )


def _contents(path: Path) -> bytes:
    limit, size = largest_content(), path.stat().st_size
    if not is_gzip(path):
        if size > limit:
            raise too_large(path, limit)
        return path.read_bytes()
    try:
        if size * _LARGEST_RATIO > limit:
            _check_decompressed_size(path, limit)
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged_gzip(path, error) from error


def is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _check_decompressed_size(path: Path, limit: int) -> None:
    total = 0
    with gzip.open(path) as file:
        while piece := file.read(PIECE):
            total += len(piece)
            if total > limit:
                raise too_large(path, limit)


def _line_end(text: str) -> str:
    return "\n" if "\n" in text else "\r"


def _convert(path: Path, encoding: str) -> str:
    command = f"{_print_command(path)} | iconv -f {encoding} -t UTF-8 > {_new_name(path)}"
    other = "" if encoding.startswith("UTF") else " (GB18030, SHIFT_JIS, ... if it is not a Western text)"
    return f"save it as UTF-8, for example: {command}{other}"


def _print_command(path: Path) -> str:
    return f"{'gzip -dc' if is_gzip(path) else 'cat'} {shlex.quote(str(path))}"


def _new_name(path: Path) -> str:
    name = path.name[:-3] if is_gzip(path) else path.name
    return shlex.quote(f"new-{name}")
