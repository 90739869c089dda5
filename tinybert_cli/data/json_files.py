"""Reader of json and jsonl files: rows, columns as pandas writes them, and the nested format of SQuAD."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.data.text_files import read_text, split_lines
from tinybert_cli.errors import InputError
from tinybert_cli.wording import verb

log = logging.getLogger("tinybert")

RIGHT_FORM = "one JSON object per line, or a list of objects; in pandas: to_json(FILE, orient='records', lines=True)"
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")  # one half of a character that JSON writes as two escapes


class _Repeated(Exception):
    """An object has a key twice."""


def read_json(path: Path) -> dict[str, list[Any]]:
    """Rows: one object per line, a list of objects, one object with a list as `data`, or the forms of pandas.

    A key that is missing in some rows is null there.
    """
    text = read_text(path)
    lines, rows = _rows(text, path)
    for index, row in enumerate(rows):
        _check_object(row, f"{path}:{lines[index]}" if lines else f"{path}, row {index + 1}")
    if _HALF_ESCAPED.search(text):
        rows = _with_whole_characters(rows, path)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def open_json_lines(
    path: Path, lines: Callable[[], Iterator[str]]
) -> tuple[list[str], Callable[[], Iterator[dict[str, Any]]]] | None:
    """The keys, and a function that reads the objects, after all were checked; None if there is not one per line.

    Args:
        lines: the lines of the file, from the first one at each call.

    Raises:
        InputError: as `read_json`.
    """
    if not _has_one_per_line(lines()):
        return None
    names: dict[str, None] = {}
    for row in _checked_objects(path, lines()):
        names |= dict.fromkeys(row)
    return list(names), lambda: (whole for _, _, whole in _parsed(path, lines()))


def stream_json_lines(path: Path, lines: Callable[[], Iterator[str]]) -> Iterator[dict[str, Any]] | None:
    """The objects as they are read; None if there is not one per line.

    Raises:
        InputError: as `read_json`, once the line is reached.
    """
    return _checked_objects(path, lines()) if _has_one_per_line(lines()) else None


def _has_one_per_line(lines: Iterator[str]) -> bool:
    first_two = list(itertools.islice((line for line in lines if line.strip()), 2))
    return len(first_two) == 2 and not first_two[0].lstrip().startswith("[") and _is_complete(first_two[0])


def _parsed(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Any, Any]]:
    """The number of each line that is not blank, and its value, as it is and without halves of characters."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _parse_line(line.rstrip("\r\n"), path, number)
            yield number, row, _replaced(row) if _HALF_ESCAPED.search(line) else row


def _checked_objects(path: Path, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The objects, without halves of characters; at the end, a warning if there were any."""
    changed, first, count = 0, 0, 0
    for number, row, whole in _parsed(path, lines):
        _check_object(row, f"{path}:{number}")
        count += 1
        if whole != row:
            changed, first = changed + 1, first or count
        yield whole
    _warn_of_halves(changed, first, count, path)


def _check_object(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise InputError(f"expected a JSON object, found {_shortened(row)}", where=where, hint=RIGHT_FORM)


def _rows(text: str, path: Path) -> tuple[list[int], list[Any]]:
    """The rows, and the line of each if there is one per line."""
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    first = lines[0][1].lstrip("\ufeff \t")
    if first.startswith("[") or not _is_complete(first) or len(lines) == 1:
        document = _parse(text, path, len(lines))
        if document is not None:
            return [], _rows_of_document(document, path)
    return [number for number, _ in lines], [_parse_line(line, path, number) for number, line in lines]


def _is_complete(line: str) -> bool:
    try:
        _loads(line)
    except (ValueError, RecursionError, _Repeated):
        return False
    return True


def _parse(text: str, path: Path, count: int) -> Any:
    """The document in a file; None if it is probably one object per line, one of which is malformed."""
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        if count > 1 and not text.lstrip().startswith("[") and not re.match(r"\s*\{\s*\n", text):
            return None
        raise _malformed(error.msg, path, error.lineno, error.colno) from error
    except (ValueError, RecursionError, _Repeated) as error:
        raise _malformed(_reason(error), path) from error


def _parse_line(line: str, path: Path, number: int) -> Any:
    try:
        return _loads(line.lstrip("\ufeff"))
    except json.JSONDecodeError as error:
        raise _malformed(error.msg, path, number, error.colno) from error
    except (ValueError, RecursionError, _Repeated) as error:
        raise _malformed(_reason(error), path, number) from error


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repeated_keys)


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, _Repeated):
        return f"the key '{error}' occurs twice in one object"
    return "nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"


def _malformed(reason: str, path: Path, *location: int) -> InputError:
    where = ":".join(map(str, (path, *location)))
    return InputError(f"malformed JSON: {reason}", where=where, hint=RIGHT_FORM)


def _rows_of_document(document: Any, path: Path) -> list[Any]:
    """The rows of a file that is one JSON value."""
    if isinstance(document, list):
        rows = document
    elif not isinstance(document, dict):
        raise InputError(f"expected JSON objects, found {_shortened(document)}", where=str(path), hint=RIGHT_FORM)
    elif isinstance(document.get("data"), list):
        rows, names = document["data"], document.get("columns")
        if isinstance(names, list) and "index" in document:  # orient="split"
            return [dict(zip(names, row, strict=True)) if _fits(row, names) else row for row in rows]
    else:
        rows = _rows_of_pandas(document, path)
    if rows and isinstance(rows[0], dict) and "paragraphs" in rows[0]:
        return _flatten_squad(rows, path)
    return rows


def _fits(row: Any, names: Sequence[Any]) -> bool:
    return isinstance(row, list) and len(row) == len(names) == len(set(map(str, names)))


def _rows_of_pandas(document: Mapping[str, Any], path: Path) -> list[Any]:
    """The rows of `to_json(orient="columns")`, the default, or `"index"`; any other object is one row.

    pandas numbers the rows. If a number is not what tells rows from columns, the object is one row.
    """
    parts = list(document.values())
    if not parts or not all(isinstance(part, dict) and part for part in parts):
        return [document]
    keys = list(parts[0])
    if not all(list(part) == keys for part in parts):
        return [document]
    inner, outer = all(map(_is_number, keys)), all(map(_is_number, document))
    if inner and outer:
        raise InputError(f"'{path}' has numbers as the names of rows and of columns", hint=RIGHT_FORM)
    if outer:
        return parts
    return [{name: column[key] for name, column in document.items()} for key in keys] if inner else [document]


def _is_number(key: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", key) is not None


def _with_whole_characters(rows: list[Any], path: Path) -> list[Any]:
    """The rows with U+FFFD for each half of a character, which is no text."""
    whole = [_replaced(row) for row in rows]
    changed = [index for index, (old, new) in enumerate(zip(rows, whole, strict=True)) if old != new]
    _warn_of_halves(len(changed), 1 + changed[0] if changed else 0, len(rows), path)
    return whole


def _warn_of_halves(changed: int, first: int, count: int, path: Path) -> None:
    """A warning if rows have halves of characters; `first` is the number of the first of them, from 1."""
    if changed:
        log.warning(
            "%s of %s rows of %s %s half a character (an escape such as \\ud83d without its other half), which is "
            "replaced by U+FFFD; first: %s, row %s",
            f"{changed:,}", f"{count:,}", path.name, verb(changed, "has", "have"), path, first,
        )  # fmt: skip


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value


def _flatten_squad(articles: Sequence[Any], path: Path) -> list[dict[str, Any]]:
    """The nested format of SQuAD 1.1 and 2.0 as flat rows, one per question.

    The answers of a question without `answers` are null: it can be labelled, but not learned from.
    """
    rows: list[dict[str, Any]] = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    spans = [] if entry.get("is_impossible") else entry.get("answers")
                    answers = spans and {key: [span[key] for span in spans] for key in ("text", "answer_start")}
                    row = {
                        "id": entry.get("id"),
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": entry["question"],
                        "answers": {"text": [], "answer_start": []} if spans == [] else answers,
                    }
                    rows.append(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not in SQuAD format: {error}",
            where=f"{path}, question {len(rows) + 1}",
            hint="data: [{paragraphs: [{context: ..., qas: [{id: ..., question: ..., answers: [...]}]}]}]",
        ) from error
    return rows


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
