"""predict on tables: texts from columns of a file, and predictions into a file beside the columns of the input."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, strict_json
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError, OutputError
from tinybert_cli.tasks import GivenWords
from tinybert_cli.tasks.label_lists import SEPARATOR
from tinybert_cli.types import Rows

TABLES = ("csv", "tsv", "json", "jsonl", "parquet", "conll")  # the formats whose rows have columns
OUTPUTS = ("csv", "tsv", "jsonl", "parquet")
IN_CELLS = ("prediction", "confidence", "score")  # what csv and tsv have of the output of `Predictor.predict`

log = logging.getLogger("tinybert")

Row = dict[str, Any]
Parts = Callable[[], Iterator[Rows]]


def is_table(path: Path) -> bool:
    """Whether a file has columns, by the ending of its name; else it has one text per line."""
    from tinybert_cli.data.readers import RENAMED, format_of

    return format_of(path) in (*TABLES, *RENAMED)


def open_table(path: Path, recorded: Sequence[str] | None) -> Parts:
    """The rows of a file in parts, from the first one at each call.

    Args:
        recorded: the text columns that the model records.

    Raises:
        InputError: the file is missing, malformed or too large.
    """
    from tinybert_cli.data.parts import open_parts

    data = Data(text_column_names=list(recorded)) if recorded else Data()
    try:
        return open_parts(path, data)
    except InputError as error:
        if "data." in (error.hint or ""):  # a setting, which `predict` does not have
            others = [part for part in str(error.hint).split("; ") if "data." not in part]
            error.hint = "; or ".join([*others, "save the file as .jsonl or .parquet"])
        raise


def texts_of(
    rows: Rows, named: Sequence[str], recorded: Sequence[str] | None, model: str, *, tags_words: bool = False
) -> list[tuple[str, ...]]:
    """The text, or the two texts, of each row.

    Args:
        named: the columns from the command line; empty = those that the model records.
        recorded: the columns that the model records, None if it records none.
        tags_words: whether a row may be a list of words, which the model tags as they are.

    Raises:
        InputError: a column is missing, the model takes another number of texts, or a row has no text.
    """
    columns = list(named or recorded or [])
    here = f"columns here: {', '.join(rows.columns)}"
    if not columns:
        raise InputError(f"'{model}' does not record its text columns", hint=f"name them with --text COLUMN; {here}")
    if not named and (missing := [name for name in columns if name not in rows.columns]):
        raise InputError(
            f"'{model}' was trained on the column{'s' if len(columns) > 1 else ''} {' and '.join(columns)}, but "
            f"'{rows.origins[0][0]}' has no column '{missing[0]}'",
            hint=f"name {'two columns' if len(columns) > 1 else 'the column'} with --text; {here}",
        )
    texts = [rows.column(name) for name in columns]  # raises if one is missing
    if recorded and len(columns) != len(recorded):
        takes = "one text" if len(recorded) == 1 else f"pairs, {recorded[0]} and {recorded[1]}"
        raise InputError(
            f"'{model}' takes {takes}, but --text names {len(columns)} column{'s' if len(columns) > 1 else ''}",
            hint=f"--text {' --text '.join(recorded)}, with the names of your columns; {here}",
        )
    return [
        tuple(_text(value, name, rows, index, tags_words) for name, value in zip(columns, values, strict=True))
        for index, values in enumerate(zip(*texts, strict=True))
    ]


def check_output(path: Path, source: Path, *, force: bool) -> None:
    """Checks that predictions can be written there.

    Raises:
        ConfigError: the ending of the name is not that of a known format.
        OutputError: the file exists, is the input, or belongs to a finished run.
    """
    if path.suffix.lower().removeprefix(".") not in OUTPUTS:
        raise ConfigError(
            f"--output {path}: unknown file format",
            hint=f"end the name in .{', .'.join(OUTPUTS[:-1])} or .{OUTPUTS[-1]}",
        )
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder", hint=f"give a file: --output {path / 'answers.csv'}")
    if path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"--output '{path}' is the file with the texts", hint="choose another name")
    if artifacts.has_manifest(path.parent) and path.exists():
        raise OutputError(f"'{path}' is in the folder of a finished run", hint="choose another folder")
    if path.exists() and not force:
        raise OutputError(f"'{path}' exists", hint="choose another name, or --force to replace it")


def write(
    path: Path, parts: Iterable[tuple[Rows, Iterable[Row]]], source: Path, *, sometimes: Sequence[str] = ()
) -> int:
    """Writes the columns of the rows with the predictions beside them, in their order; returns the number of rows.

    The file takes its name when it is complete. csv, tsv and jsonl are written as the predictions come; a Parquet file,
    whose columns have one type, when all of them are there.

    Args:
        parts: rows, and the output of `Predictor.predict` for each of them.
        source: the file of the rows; Parquet keeps the types of its columns.
        sometimes: what the output has for some rows only; csv and tsv have none of it.

    Raises:
        InputError: the rows have a column that the output adds, or may add.
    """
    form, count = path.suffix.lower().removeprefix("."), 0

    def joined() -> Iterator[Row]:
        nonlocal count
        for rows, outputs in parts:
            for own, output in zip(zip(*rows.columns.values(), strict=True), outputs, strict=True):
                predicted = {key: value for key, value in output.items() if key != "text"}
                added = {*predicted, *sometimes}
                if form in ("csv", "tsv"):
                    predicted = {key: predicted[key] for key in IN_CELLS if key in predicted}
                    added = {*predicted}
                if taken := [name for name in rows.columns if name in added]:
                    raise InputError(
                        f"the file has a column '{taken[0]}', which --output adds", hint="rename the column"
                    )
                count += 1
                yield {**dict(zip(rows.columns, own, strict=True)), **predicted}

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.replacing(path) as partial:
            if form == "parquet":
                _write_parquet(partial, joined(), source)
            elif form == "jsonl":
                with partial.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(f"{strict_json.dumps(row, default=str)}\n" for row in joined())
            else:
                _write_delimited(partial, joined(), form)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}", hint="choose another folder") from error
    return count


def check_cells(path: Path, parts: Parts) -> None:
    """InputError if a tsv file, which has no quotes, cannot hold a cell of the rows."""
    if path.suffix.lower() != ".tsv":
        return
    for rows in parts():
        for name, values in rows.columns.items():
            for index, value in enumerate(values):
                _check_tsv([name, _cell(value)], rows.location(index))


def _check_tsv(cells: Sequence[str], where: str) -> None:
    if unfit := next((cell for cell in cells if re.search(r"[\t\r\n]", cell)), None):
        raise InputError(
            f"a cell has a tab or a line break, which separate the cells and lines of tsv: {unfit!r:.60}",
            where=where,
            hint="write .csv, .jsonl or .parquet",
        )


def _write_delimited(path: Path, joined: Iterator[Row], form: str) -> None:
    """The columns of the first row, which all rows have.

    The cells of csv are quoted where it is necessary, also for a carriage return alone; those of tsv never are.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        names: list[str] = []

        def write(cells: Sequence[str]) -> None:
            if form == "tsv":
                _check_tsv(cells, str(path))
            file.write(("\t".join(cells) if form == "tsv" else ",".join(map(_quoted, cells))) + "\n")

        for row in joined:
            if not names:
                names = list(row)
                write(names)
            write([_cell(row[name]) for name in names])


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n]', cell) else cell


def _write_parquet(path: Path, joined: Iterator[Row], source: Path) -> None:
    from tinybert_cli import data

    rows = list(joined)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    stored = {name: kind for name, kind in _stored_types(source).items() if name in columns}
    table = Rows({name: columns[name] for name in names if name not in stored}, ((str(path), len(rows)),))
    types = data.column_types([table]) | stored
    types = {name: types[name] for name in names}
    if as_text := data.converted_columns([table], types):
        log.warning("columns whose values have no common type in Parquet are text: %s", ", ".join(as_text))
    data.write_table(path, columns, types)


def _stored_types(source: Path) -> dict[str, Any]:
    """The types of the columns of a Parquet file; categories are their values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tinybert_cli.data.readers import format_of

    if format_of(source) != "parquet":
        return {}
    types = {field.name: field.type for field in pq.read_schema(source)}
    return {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in types.items()}


def _cell(value: Any) -> str:
    """A value as text: names of labels are joined as `label_separator` splits them, other lists are JSON."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) and SEPARATOR not in item for item in value):
        return SEPARATOR.join(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _text(value: Any, name: str, rows: Rows, index: int, tags_words: bool) -> str:
    if tags_words and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = GivenWords(value)
    if not isinstance(value, str):
        what = (
            "null" if value is None else f"{json.dumps(value, ensure_ascii=False, default=str)[:60]}, which is no text"
        )
        raise InputError(
            f"the column '{name}' is {what}", where=rows.location(index), hint="remove the row, or fill in a text"
        )
    if not value.strip():
        raise InputError(
            f"the column '{name}' is empty", where=rows.location(index), hint="remove the row, or fill in a text"
        )
    return value


@contextmanager
def warnings_to(note: Callable[[str], object]) -> Iterator[None]:
    """Calls `note` with the warnings of tinybert, of which a command hides the log."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    logger, handler = logging.getLogger("tinybert"), Notes(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
