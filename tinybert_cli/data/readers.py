"""Readers of csv, tsv, json, jsonl, parquet, txt and conll files. Errors give the file and, if known, the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError, nearest
from tinybert_cli.types import Rows


def existing_file(path: Path, split: str) -> Path:
    """`path`; InputError, with the nearest file name, if it does not exist or is a folder."""
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(
            f"'{path}' is a folder, not a file",
            where=f"data.{split}_file",
            hint="give the files in it; or, if they are named train.jsonl, validation.csv, ..., set data.dataset_name",
        )
    suggestion = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
    raise InputError(f"'{path}' does not exist", where=f"data.{split}_file", hint=suggestion)


def format_of(path: Path) -> str:
    """The file extension in lower case, without a final `.gz`."""
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def read_file(path: Path, conll_columns: Sequence[str] = ()) -> Rows:
    """All rows of a file; `conll_columns` names the columns of a conll file.

    Raises:
        InputError: the format is unknown or the file is malformed.
    """
    if format_of(path) not in READERS:
        raise InputError(f"cannot read '{path}': unknown file format", hint=f"one of: {', '.join(READERS)}; .gz too")
    columns = READERS[format_of(path)](path)
    if format_of(path) == "conll":
        columns = _named_columns(columns, conll_columns, path)
    rows = Rows(columns, ((str(path), len(next(iter(columns.values()), []))),))
    return with_class_names(rows, _parquet_features(path)) if format_of(path) == "parquet" else rows


def with_class_names(rows: Rows, features: Mapping[str, Any]) -> Rows:
    """The rows with names in place of the integers in ClassLabel columns.

    Args:
        features: the features of the `datasets` library, by column, as in its metadata.

    Raises:
        InputError: an integer has no name.
    """
    class_names = {name: names for name in rows.columns if (names := _names_of_feature(features.get(name)))}

    def name_of(value: Any, names: list[str], row: int) -> Any:
        if isinstance(value, list):
            return [name_of(item, names, row) for item in value]
        if value is None or value == -1:  # -1: how the Hub marks hidden labels
            return None
        if not 0 <= value < len(names):
            raise InputError(f"the label {value} has no name; the data names {len(names)}", where=rows.location(row))
        return names[value]

    columns = dict(rows.columns)
    for column, names in class_names.items():
        if not all(value == -1 for value in columns[column]):
            columns[column] = [name_of(value, names, row) for row, value in enumerate(columns[column])]
    return replace(rows, columns=columns, class_names=class_names)


def _names_of_feature(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them, in any version of `datasets`; None for other features."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_of_feature(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return feature.get("names")
    return _names_of_feature(feature.get("feature"))


def _named_columns(columns: dict[str, list[Any]], names: Sequence[str], path: Path) -> dict[str, list[Any]]:
    """Name the columns of a conll file; if it has more columns than names, the last name is that of the last column."""
    if len(columns) < len(names) and len(columns) > 1:
        raise InputError(
            f"'{path}' has {len(columns)} columns, but {len(names)} are named: {', '.join(names)}",
            hint="set data.conll_column_names to the names of its columns",
        )
    if len(columns) == 1:  # no tags
        return {names[0]: columns["0"]}
    between = [f"column_{index + 1}" for index in range(len(names) - 1, len(columns) - 1)]
    return dict(zip([*names[:-1], *between, names[-1]], columns.values(), strict=True))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of several files, in order; InputError if their columns differ."""
    first = parts[0]
    for part in parts[1:]:
        different = sorted(part.columns.keys() ^ first.columns.keys())
        if different:
            what = f"columns differ from those of {first.origins[0][0]}: {', '.join(different)}"
            raise InputError(what, where=part.origins[0][0])
    columns = {name: [value for part in parts for value in part.columns[name]] for name in first.columns}
    class_names = {
        name: list(dict.fromkeys(label for part in parts for label in part.class_names.get(name, [])))
        for name in first.class_names
    }
    return Rows(columns, tuple(origin for part in parts for origin in part.origins), class_names)


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is not a complete gzip file: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"'{path}' is not UTF-8", where=f"{path}:{line}", hint="convert it: iconv -t UTF-8") from error
    if not text.strip():
        raise InputError(f"'{path}' is empty")
    return text


def _csv(path: Path, delimiter: str = ",") -> dict[str, list[Any]]:
    """Every cell stays text: `NA`, `null` and an empty cell are not read as missing values."""
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
                    hint="a cell that contains a comma, quote or line break must be in double quotes",
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
    """One object per line, a list of objects, or one object with such a list as `data`; nested SQuAD is flattened."""
    text = _text(path)
    records: list[tuple[int, Any]] = []
    try:
        document = _single_document(text)
        if document is not None:
            is_squad = bool(document) and isinstance(document[0], dict) and "paragraphs" in document[0]
            records = [(1, record) for record in (_flatten_squad(document, str(path)) if is_squad else document)]
        else:
            records = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    except json.JSONDecodeError as error:
        line = error.lineno if text.lstrip().startswith("[") else _first_malformed_line(text)
        raise InputError(f"malformed JSON: {error.msg}", where=f"{path}:{line}:{error.colno}") from error
    columns: dict[str, list[Any]] = {}
    for line, record in records:
        if not isinstance(record, dict):
            raise InputError("expected one JSON object per line", where=f"{path}:{line}")
        if columns and record.keys() != columns.keys():
            different = sorted(record.keys() ^ columns.keys())
            raise InputError(f"keys differ from those of the first row: {', '.join(different)}", where=f"{path}:{line}")
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
    return columns


def _single_document(text: str) -> list[Any] | None:
    """The rows of a file that is one list, or one object with a list as `data`; None if it is neither."""
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    if not text.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(text)
    except json.JSONDecodeError:  # probably one object per line
        return None
    return document["data"] if isinstance(document.get("data"), list) else None


def _flatten_squad(articles: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """The nested format of SQuAD 1.1 and 2.0 as flat rows, one per question."""
    records = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    spans = [] if entry.get("is_impossible") else entry["answers"]
                    record = {
                        "id": entry["id"],
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": entry["question"],
                        "answers": {key: [span[key] for span in spans] for key in ("text", "answer_start")},
                    }
                    records.append(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not in SQuAD format: {error}",
            where=where,
            hint="data: [{paragraphs: [{context: ..., qas: [{id: ..., question: ..., answers: [...]}]}]}]",
        ) from error
    return records


def _conll(path: Path) -> dict[str, list[Any]]:
    """One word per line with its tags, columns separated by tabs or spaces, an empty line after each sentence.

    -DOCSTART- lines and comments (# ...) are skipped. Columns are called 0, 1, 2, ...; `read_file` names them.
    """
    lines = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        lines.append((number, [cell.strip() for cell in cells]))
    counts = Counter(len(cells) for _, cells in lines if cells)
    columns = counts.most_common(1)[0][0] if counts else 0
    sentences: list[list[list[str]]] = [[]]
    for number, cells in lines:
        if not any(cells):
            sentences.append([])
        elif cells[0] == "-DOCSTART-" or (cells[0].startswith("#") and len(cells) != columns):
            continue
        elif len(cells) != columns:
            raise InputError(
                f"{len(cells)} columns, but most lines have {columns}",
                where=f"{path}:{number}",
                hint="one word and its tags per line, separated by tabs or spaces; an empty line after each sentence",
            )
        else:
            sentences[-1].append(cells)
    sentences = [sentence for sentence in sentences if sentence]
    return {str(index): [[cells[index] for cells in sentence] for sentence in sentences] for index in range(columns)}


def _first_malformed_line(text: str) -> int:
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


def _parquet_features(path: Path) -> dict[str, Any]:
    """The features that the `datasets` library left in the metadata of a Parquet file, by column."""
    import pyarrow.parquet as pq

    try:
        metadata = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        return dict(metadata["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "txt": _txt,
    "conll": _conll,
}
