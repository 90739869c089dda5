"""Files of rows: csv, tsv, json, jsonl, parquet, txt, conll; complaints name file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError, nearest
from tinybert_cli.types import Rows


def existing_file(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(
            f"'{path}' is a folder, not a file",
            where=f"data.{split}_file",
            hint="name the files in it; or, if they are called train.jsonl, validation.csv, ..., set data.dataset_name",
        )
    near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
    raise InputError(f"'{path}' does not exist", where=f"data.{split}_file", hint=near)


def kind_of(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def read_file(path: Path, conll_columns: Sequence[str] = ()) -> Rows:
    """The rows of a file, those of a conll file in columns of these names."""
    if kind_of(path) not in READERS:
        raise InputError(f"cannot read '{path}': unknown kind of file", hint=f"one of: {', '.join(READERS)}; .gz too")
    columns = READERS[kind_of(path)](path)
    if kind_of(path) == "conll":
        columns = _named(columns, conll_columns, path)
    return Rows(columns, ((str(path), len(next(iter(columns.values()), []))),))


def _named(columns: dict[str, list[Any]], names: Sequence[str], path: Path) -> dict[str, list[Any]]:
    """The columns of a conll file by these names; of a file with more columns, the last name is that of the last."""
    if len(columns) < len(names) and len(columns) > 1:
        raise InputError(
            f"'{path}' has {len(columns)} columns, named are {', '.join(names)}",
            hint="set data.conll_column_names to what they are",
        )
    if len(columns) == 1:  # no tags
        return {names[0]: columns["0"]}
    between = [f"column_{index + 1}" for index in range(len(names) - 1, len(columns) - 1)]
    return dict(zip([*names[:-1], *between, names[-1]], columns.values(), strict=True))


def joined(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    for part in parts[1:]:
        odd = sorted(part.columns.keys() ^ first.columns.keys())
        if odd:
            raise InputError(f"other columns than in {first.origins[0][0]}: {', '.join(odd)}", where=part.origins[0][0])
    columns = {name: [value for part in parts for value in part.columns[name]] for name in first.columns}
    return Rows(columns, tuple(origin for part in parts for origin in part.origins), first.label_names)


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is not a whole gzip file: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"'{path}' is not UTF-8", where=f"{path}:{line}", hint="convert it: iconv -t UTF-8") from error
    if not text.strip():
        raise InputError(f"'{path}' is empty")
    return text


def _csv(path: Path, delimiter: str = ",") -> dict[str, list[Any]]:
    """Every cell as the text it is: `NA`, `null` and the empty cell are no missing values."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        columns: dict[str, list[Any]] = {name: [] for name in header}
        if len(columns) != len(header):
            raise InputError(f"'{path}' has two columns of the same name", where=f"{path}:1")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{len(cells)} cells, but the header has {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    hint="a cell with a comma, quote or line break in it must stand in double quotes",
                )
            for name, cell in zip(header, cells, strict=True):
                columns[name].append(cell)
    except csv.Error as error:
        raise InputError(f"malformed CSV: {error}", where=f"{path}:{reader.line_num}") from error
    if not columns[header[0]]:
        raise InputError(f"'{path}' has a header but no rows")
    return columns


def _tsv(path: Path) -> dict[str, list[Any]]:
    return _csv(path, "\t")


def _txt(path: Path) -> dict[str, list[Any]]:
    return {"text": [line.strip() for line in _text(path).split("\n") if line.strip()]}


def _json(path: Path) -> dict[str, list[Any]]:
    """One object per line, a list of them, or one object with such a list as `data`; SQuAD's own form is flattened."""
    text = _text(path)
    records: list[tuple[int, Any]] = []
    try:
        whole = _whole(text)
        if whole is not None:
            nested = bool(whole) and isinstance(whole[0], dict) and "paragraphs" in whole[0]
            records = [(1, record) for record in (_squad(whole, str(path)) if nested else whole)]
        else:
            records = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    except json.JSONDecodeError as error:
        line = error.lineno if text.lstrip().startswith("[") else _bad_line(text)
        raise InputError(f"malformed JSON: {error.msg}", where=f"{path}:{line}:{error.colno}") from error
    columns: dict[str, list[Any]] = {}
    for line, record in records:
        if not isinstance(record, dict):
            raise InputError("expected one JSON object per line", where=f"{path}:{line}")
        if columns and record.keys() != columns.keys():
            odd = sorted(record.keys() ^ columns.keys())
            raise InputError(f"other keys than in the first row: {', '.join(odd)}", where=f"{path}:{line}")
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
    return columns


def _whole(text: str) -> list[Any] | None:
    """The rows of a text that is one list, or one object with a list as `data`; None if it is neither."""
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:  # of rows, each on its line
        return None
    return found["data"] if isinstance(found.get("data"), list) else None


def _squad(parts: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """The nested form of SQuAD 1.1 and 2.0, article by article, as flat rows, one to a question."""
    records = []
    try:
        for article in parts:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    said = [] if asked.get("is_impossible") else asked["answers"]
                    answers = {key: [answer[key] for answer in said] for key in ("text", "answer_start")}
                    records.append({
                        "id": asked["id"], "title": article.get("title", ""), "context": paragraph["context"],
                        "question": asked["question"], "answers": answers,
                    })  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"this is not the form of SQuAD: {error}",
            where=where,
            hint="data: [{paragraphs: [{context: ..., qas: [{id: ..., question: ..., answers: [...]}]}]}]",
        ) from error
    return records


def _conll(path: Path) -> dict[str, list[Any]]:
    """A word a line with its tags, columns parted by tabs or spaces, an empty line after each sentence.

    Lines of -DOCSTART- and comments (# ...) are skipped. Columns are called 0, 1, 2, ...; `read_file` names them.
    """
    lines = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        lines.append((number, [cell.strip() for cell in cells]))
    widths = Counter(len(cells) for _, cells in lines if cells)
    width = widths.most_common(1)[0][0] if widths else 0
    sentences: list[list[list[str]]] = [[]]
    for number, cells in lines:
        if not any(cells):
            sentences.append([])
        elif cells[0] == "-DOCSTART-" or (cells[0].startswith("#") and len(cells) != width):
            continue
        elif len(cells) != width:
            raise InputError(
                f"{len(cells)} columns, but most lines have {width}",
                where=f"{path}:{number}",
                hint="a word and its tags on each line, parted by tabs or spaces; an empty line after each sentence",
            )
        else:
            sentences[-1].append(cells)
    whole = [sentence for sentence in sentences if sentence]
    return {str(index): [[cells[index] for cells in sentence] for sentence in whole] for index in range(width)}


def _bad_line(text: str) -> int:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            json.loads(line if line.strip() else "0")
        except json.JSONDecodeError:
            return number
    return 1


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return dict(pq.read_table(path, page_checksum_verification=True).to_pydict())
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot read '{path}': {error}") from error


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "txt": _txt,
    "conll": _conll,
}
