"""Reader of csv and tsv files: which delimiter separates the cells, and whether quotes enclose cells."""

from __future__ import annotations

import csv
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.data.text_files import EMPTY, lines_with_ends, read_text
from tinybert_cli.errors import InputError
from tinybert_cli.wording import verb

log = logging.getLogger("tinybert")

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
SAMPLE = 10_000  # rows of a stream by which its delimiter is detected
LONGEST_CELL = 2**31 - 1  # characters; the limit of the csv module is 131,072 unless it is set


Lines = Callable[[], Iterator[str]]  # the lines of a file with their ends, from the first one at each call


class _Doubts:
    """What may have been read in another way than it was written, and the number of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.joined = _Lines()  # lines where a quoted cell begins that has delimiters and line breaks
        self.quotes = _Lines()  # lines of cells in quotes that are part of the text


class _Lines:
    """How many lines have something, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0

    def append(self, line: int) -> None:
        self.first = self.first or line
        self.count += 1


class _Malformed(Exception):
    """A file cannot be read with this delimiter and quoting."""

    def __init__(self, what: str, line: int, *, ragged: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.ragged = ragged


def read_delimited(path: Path, data: Data, *, default: str) -> dict[str, list[Any]]:
    """Every cell stays text: `NA`, `null` and an empty cell are not read as missing values.

    Args:
        default: the delimiter that the ending of the file name stands for.

    Raises:
        InputError: the rows have different numbers of cells, or two delimiters fit.
    """
    text = read_text(path)
    reader, delimiter, quoted = _opened(path, lambda: lines_with_ends(text), data, default)
    with _checked(reader, delimiter, quoted, data) as doubts:
        header, rows = reader.table(delimiter, quoted, doubts)
        columns: list[list[Any]] = [[] for _ in header]
        for cells in rows:
            for column, cell in zip(columns, cells, strict=True):
                column.append(cell)
    return dict(zip(header, columns, strict=True))


def open_delimited(
    path: Path, lines: Lines, data: Data, *, default: str
) -> tuple[list[str], Callable[[], Iterator[list[str]]]]:
    """The header, and a function that reads the cells of each row, after all rows were checked.

    Raises:
        InputError: as `read_delimited`.
    """
    reader, delimiter, quoted = _opened(path, lines, data, default)
    with _checked(reader, delimiter, quoted, data) as doubts:
        header, rows = reader.table(delimiter, quoted, doubts)
        for _ in rows:
            pass
    return header, lambda: reader.table(delimiter, quoted, _Doubts())[1]


def stream_delimited(path: Path, lines: Lines, data: Data, *, default: str) -> Iterator[list[str]]:
    """The header, and then the cells of each row as they are read.

    Delimiter and quoting are those that fit the first SAMPLE rows; a later row that they do not fit is an error.

    Raises:
        InputError: as `read_delimited`, once the row is reached.
    """
    reader, delimiter, quoted = _opened(path, lines, data, default, sample=SAMPLE)
    with _checked(reader, delimiter, quoted, data) as doubts:
        header, rows = reader.table(delimiter, quoted, doubts)
        yield header
        yield from rows


def delimiter_of(path: Path, data: Data, *, default: str) -> str:
    """The delimiter with which `read_delimited` reads a file, in words."""
    text = read_text(path)
    _, delimiter, _ = _opened(path, lambda: lines_with_ends(text), data, default)
    return DELIMITERS.get(delimiter, repr(delimiter))


def _opened(
    path: Path, lines: Lines, data: Data, default: str, *, sample: int | None = None
) -> tuple[_Reader, str, bool]:
    """A reader of the file, its delimiter, and whether quotes enclose cells.

    Args:
        sample: the number of rows by which the delimiter is detected; None = all.
    """
    skipped, delimiter = 0, data.delimiter
    if match := re.match(r"sep=(.)\r?\n", next(lines()), re.IGNORECASE):  # Excel's way to name the delimiter
        skipped = 1
        delimiter = match[1] if delimiter == "auto" else delimiter
    reader = _Reader(path, lines, skipped, sample)
    if not any(line.strip() for line in reader.lines()):
        raise InputError(f"'{path}' has no header", where=f"{path}:{1 + skipped}")
    quoted = _is_quoted(reader, data, default)
    return reader, _detect_delimiter(reader, default, quoted) if delimiter == "auto" else delimiter, quoted


@contextmanager
def _checked(reader: _Reader, delimiter: str, quoted: bool, data: Data) -> Iterator[_Doubts]:
    """Reads all rows inside: then a malformed or missing row is an error, and what is doubtful a warning."""
    doubts = _Doubts()
    try:
        yield doubts
    except _Malformed as error:
        where = f"{reader.path}:{error.line}"
        raise InputError(error.what, where=where, hint=_hint(reader, error, delimiter, quoted)) from error
    if not doubts.rows:
        raise InputError(
            f"'{reader.path}' has a header but no rows", where=f"{reader.path}:{1 + reader.skipped}", hint=EMPTY
        )
    if data.quoting == "auto":
        _warn(reader.path, doubts, DELIMITERS.get(delimiter, repr(delimiter)))


class _Reader:
    """Reads the lines of a file with any delimiter, with or without quotes."""

    def __init__(self, path: Path, lines: Lines, skipped: int, sample: int | None) -> None:
        self.path = path
        self.skipped = skipped  # lines before the header
        self.sample = sample  # rows by which delimiter and quoting are detected; None: all
        self._all_lines = lines

    def lines(self) -> Iterator[str]:
        return itertools.islice(self._all_lines(), self.skipped, None)

    def records(self, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str], bool]]:
        """Line, cells, and whether the record has several lines; blank lines are skipped."""
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.reader(
            self.lines(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
        )
        line = self.skipped + 1
        try:
            for cells in reader:
                following = self.skipped + reader.line_num + 1
                if cells:
                    yield line, cells, following > line + 1
                line = following
        except csv.Error as error:
            message = str(error)
            if "unexpected end of data" in message:
                message = "the quote that opens a cell of this row is never closed"
            if "new-line character" in message:
                message = "a carriage return inside a cell that is not quoted"
            raise _Malformed(f"malformed CSV: {message}", line) from error

    def header(self, delimiter: str, quoted: bool) -> list[str]:
        return next(self.records(delimiter, quoted))[1]

    def table(self, delimiter: str, quoted: bool, doubts: _Doubts) -> tuple[list[str], Iterator[list[str]]]:
        """The header, and the cells of each row; what is doubtful is added to `doubts` as the rows are read."""
        records = self.records(delimiter, quoted)
        line, header, _ = next(records)
        if repeated := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise _Malformed(f"'{self.path}' has two columns of the same name: '{repeated[0]}'", line)

        def rows() -> Iterator[list[str]]:
            for line, cells, has_several_lines in records:
                if len(cells) != len(header):
                    raise _Malformed(f"{len(cells)} cells, but the header has {len(header)}", line, ragged=True)
                if has_several_lines and any(delimiter in cell and re.search(r"[\r\n]", cell) for cell in cells):
                    doubts.joined.append(line)
                if not quoted and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
                    doubts.quotes.append(line)
                doubts.rows += 1
                yield cells

        return header, rows()

    def fits(self, delimiter: str, quoted: bool) -> bool:
        """Whether all rows, or those of the sample, have as many cells as the header."""
        try:
            for _ in itertools.islice(self.table(delimiter, quoted, _Doubts())[1], self.sample):
                pass
        except _Malformed:
            return False
        return True


def _is_quoted(reader: _Reader, data: Data, default: str) -> bool:
    """Whether quotes enclose cells. A tsv file has no quoting, unless all names in its header are quoted."""
    if data.quoting != "auto":
        return data.quoting == "double"
    header = next(line for line in reader.lines() if line.strip()).strip()
    return default == "," or all(re.fullmatch('"[^"]*"', name) for name in header.split("\t"))


def _detect_delimiter(reader: _Reader, default: str, quoted: bool) -> str:
    """The delimiter that divides the header; of several, the one that divides every row like the header."""

    def divides(delimiter: str) -> bool:
        try:
            return len(reader.header(delimiter, quoted)) > 1
        except _Malformed:
            return False

    candidates = [delimiter for delimiter in DELIMITERS if divides(delimiter)]
    if len(candidates) < 2:
        return candidates[0] if candidates else default
    fitting = [delimiter for delimiter in candidates if reader.fits(delimiter, quoted)]
    if len(fitting) > 1:
        names = " or ".join(DELIMITERS[delimiter] for delimiter in fitting)
        raise InputError(
            f"the delimiter of '{reader.path}' may be {names}: both divide all rows into as many cells as the header",
            where=f"{reader.path}:{1 + reader.skipped}",
            hint="set data.delimiter to the character",
        )
    return fitting[0] if fitting else default if default in candidates else candidates[0]


def _hint(reader: _Reader, error: _Malformed, delimiter: str, quoted: bool) -> str | None:
    """A way to read the file, as far as it has been tried."""
    if "same name" in error.what:
        return "rename one of them"
    if reader.fits(delimiter, not quoted):
        return (
            "set data.quoting: none, which reads quotes as text"
            if quoted
            else "set data.quoting: double, which removes the quotes around cells"
        )
    name = DELIMITERS.get(delimiter, repr(delimiter))
    if not quoted:
        return f"a cell cannot contain a {name} or a line break; with data.quoting: double it can, in double quotes"
    if error.ragged:
        return f"a cell that contains a {name}, quote or line break must be in double quotes; or set data.delimiter"
    return 'a cell in double quotes ends with a quote, and a quote inside it is doubled ("")'


def _warn(path: Path, doubts: _Doubts, delimiter: str) -> None:
    if doubts.joined.count:
        log.warning(
            "%s of %s rows of %s %s a quoted cell with a %s and a line break (first: %s:%s); if a lone quote joined "
            "several rows, set data.quoting: none",
            f"{doubts.joined.count:,}", f"{doubts.rows:,}", path.name, verb(doubts.joined.count, "has", "have"),
            delimiter, path, doubts.joined.first,
        )  # fmt: skip
    if doubts.quotes.count:
        log.warning(
            "%s of %s rows of %s %s a cell in double quotes (first: %s:%s), whose quotes are read as part of the text; "
            "set data.quoting: double to remove them",
            f"{doubts.quotes.count:,}", f"{doubts.rows:,}", path.name, verb(doubts.quotes.count, "has", "have"), path,
            doubts.quotes.first,
        )  # fmt: skip
