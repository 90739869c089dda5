"""Several labels per row: lists, lists as text, cells with a separator, 0/1 vectors, and one column per class."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import HIDDEN, as_boolean, as_number, in_quotes, is_missing
from tinybert_cli.tasks.label_names import LISTED, label_indices
from tinybert_cli.types import Rows
from tinybert_cli.wording import verb

SEPARATOR = "|"  # the default of `data.label_separator`
OTHER_SEPARATORS = (",", ";", "\uff0c", "\uff1b", "\u3001", "\t", "\n")  # with Chinese and Japanese commas
JOINING = (*OTHER_SEPARATORS, SEPARATOR, "/", "&", "+", " ")

_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?\d+(?:\.\d*)?(?![\w.])|(?:[Tt]rue|[Ff]alse)\b""")
_BRACKETS = ("[]", "()", "{}")
_UNQUOTED = 'remove the brackets, or write the names in quotes: ["first", "second"]'


@dataclass(frozen=True)
class LabelLists:
    """The labels of each row as lists of names or positions, or as 0 or 1 for each class; None where there are none."""

    lists: list[list[object] | None] | None
    vectors: list[list[int] | None] | None = None


def read_label_lists(rows: Rows, data: Data, names: Sequence[str] | None) -> LabelLists | None:
    """The labels of each row, and how they are to be read; None without a label column, or if all are withheld.

    Args:
        names: the classes, if they are known.

    Raises:
        InputError: a row is no list of labels, or it can be read in two ways.
    """
    if isinstance(data.label_column_name, list):
        vectors = _one_column_per_class(rows, data.label_column_name)
        return None if vectors is None else LabelLists(None, vectors)
    if data.label_column_name not in rows.columns:
        return None
    lists = [
        _label_list(value, row, rows, data, names or ()) for row, value in enumerate(rows.column(data.label_column))
    ]
    if not _are_vectors(lists, rows, data, names):
        return LabelLists(lists)
    return LabelLists(None, [None if row is None else [_flag(label) or 0 for label in row] for row in lists])


def is_list_text(value: object) -> bool:
    """Whether a cell is a list written as text, such as ['a', 'b'] or []."""
    return isinstance(value, str) and list_in_text(value.strip()) is not None


def list_in_text(text: str) -> list[object] | None:
    """The items of a list written as text by JSON, Python or NumPy; None if it is none."""
    if text[:1] + text[-1:] not in _BRACKETS or len(text) < 2:
        return None
    items: list[object] = []
    position, end = 1, len(text) - 1
    while (position := _after_spaces(text, position)) < end:
        match = _ITEM.match(text, position, end)
        if match is None:
            return None
        item = _parsed_item(match[0])
        if item is None:
            return None
        items.append(item)
        position = _after_spaces(text, match.end())
        if position < end and text[position] == ",":
            position += 1
        elif position == match.end() and position < end:
            return None
    return items if items or text[0] == "[" else None


def combined_names(names: Sequence[str], separators: Sequence[str] = ()) -> list[str]:
    """A warning about names that look like several labels: they contain a separator, or consist of other names."""
    known = set(names)

    def is_combined(name: str) -> bool:
        parts = [[part.strip() for part in name.split(separator)] for separator in JOINING if separator in name]
        return any(separator in name for separator in separators) or any(known.issuperset(own) for own in parts)

    combined = [name for name in names if is_combined(name)]
    if not combined:
        return []
    more = ", ..." if len(combined) > LISTED else ""
    examples = ", ".join(map(in_quotes, combined[:LISTED])) + more
    return [
        f"{len(combined):,} {verb(len(combined), 'class looks', 'classes look')} like several labels: {examples}; for "
        "several labels per text set task: multi-label-classification and data.label_separator"
    ]


def _one_column_per_class(rows: Rows, columns: Sequence[str]) -> list[list[int] | None] | None:
    if not any(name in rows.columns for name in columns):
        return None
    values = list(zip(*(rows.column(name) for name in columns), strict=True))
    if all(as_number(value) == HIDDEN for row in values for value in row):
        return None
    vectors: list[list[int] | None] = []
    for row, cells in enumerate(values):
        flags = [flag for cell in cells if (flag := _flag(cell)) is not None]
        wrong = next((index for index, cell in enumerate(cells) if _flag(cell) is None), None)
        if all(map(is_missing, cells)):
            vectors.append(None)
        elif wrong is not None:
            raise InputError(
                f"'{columns[wrong]}': expected 0 or 1, found {cells[wrong]!r}",
                where=rows.location(row),
                hint="with one column per class in data.label_column_name, each has 0 or 1 in every row",
            )
        else:
            vectors.append(flags)
    return vectors


def _label_list(value: object, row: int, rows: Rows, data: Data, names: Sequence[str]) -> list[object] | None:
    if isinstance(value, str):
        return list(_labels_of_cell(value.strip(), row, rows, data, names))
    if value is None or (isinstance(value, list) and all(isinstance(label, str | int | float) for label in value)):
        return value
    raise InputError(
        f"expected a list of labels, found {value!r}",
        where=rows.location(row),
        hint=f"a list of names, or names separated by '{data.label_separator or SEPARATOR}'",
    )


def _labels_of_cell(cell: str, row: int, rows: Rows, data: Data, names: Sequence[str]) -> Iterator[object]:
    """The labels in a cell: list text, or split at the separator.

    Raises:
        InputError: another separator is in the cell, and the part with it is not one of the names.
    """
    items = None if cell in names else list_in_text(cell)
    if items is not None:
        yield from items
        return
    parts = cell.split(data.label_separator or SEPARATOR)
    if len(parts) > 1 and cell[0] == "[" and cell[-1] == "]" and "]" not in parts[0]:
        raise InputError(
            f"the brackets around {in_quotes(cell[:80])} would be parts of its first and its last label",
            where=rows.location(row),
            hint=_UNQUOTED,
        )
    for label in parts:
        name = label.strip()
        if not name:
            continue
        separator = None if data.label_separator or name in names else _separator_in(name)
        if separator is not None or (name not in names and name[0] == "[" and name[-1] == "]"):
            separator = separator or ","
            several, one = f"data.label_separator: {json.dumps(separator)}", f'data.label_separator: "{SEPARATOR}", or '
            if name[0] == "[" and name[-1] == "]":
                several, one = _UNQUOTED, ""
            raise InputError(
                f"{in_quotes(name)} could be one label or several, separated by {_named(separator)}",
                where=rows.location(row),
                hint=f"several: {several}; one: {one}list all names in data.label_names",
            )
        yield name


def _separator_in(name: str) -> str | None:
    """A separator that the name contains; a space between numbers is one, too."""
    other = next((separator for separator in OTHER_SEPARATORS if separator in name), None)
    parts = name.split()
    return " " if other is None and len(parts) > 1 and all(as_number(part) is not None for part in parts) else other


def _named(separator: str) -> str:
    return {" ": "spaces", "\t": "tabs", "\n": "line breaks"}.get(separator, f"'{separator}'")


def _are_vectors(lists: Sequence[list[object] | None], rows: Rows, data: Data, names: Sequence[str] | None) -> bool:
    """Whether the lists have 0 or 1 for each class; else they have names, or positions of the classes.

    A list of positions never repeats one, and a vector has as many numbers as there are classes: nearly always only one
    of the two is possible.
    """
    known = [(row, labels) for row, labels in enumerate(lists) if labels is not None]
    lengths = {len(labels) for _, labels in known}
    can_be_vectors = (
        len(lengths) == 1
        and max(lengths) >= 2
        and (names is None or lengths == {len(names)})
        and all(_flag(label) is not None for _, labels in known for label in labels)
    )
    index_of = None if names is None else label_indices(names)
    for row, labels in known:
        numbers = [as_number(label) for label in labels if as_number(label) is not None]
        no_boolean_names = names is None or not any(as_boolean(name) for name in names)
        repeats = len(set(numbers)) < len(numbers)
        is_list = not (repeats or (no_boolean_names and any(isinstance(label, bool) for label in labels)))
        if can_be_vectors:
            if not is_list or (index_of is not None and any(index_of(label) is None for label in labels)):
                return True
        elif not is_list:
            size = "one per class" if names is None else f"{len(names)}, one per class"
            raise InputError(
                f"{labels!r} is neither a list of positions, which repeats none, nor a vector of 0 and 1, {size}",
                where=rows.location(row),
                hint="list as many names in data.label_names as the vectors have numbers, or write the names",
            )
        elif isinstance(data.label_names, dict) and len(set(labels)) < len(labels):
            raise InputError(
                f"a list of labels repeats one: {', '.join(map(str, labels))}",
                where=rows.location(row),
                hint="for vectors of 0 and 1, give data.label_names as a list: one name per number, in this order",
            )
    if can_be_vectors:
        first, labels = known[0]
        raise InputError(
            f"{labels!r} could be two positions or a vector of 0 and 1, in every row",
            where=rows.location(first),
            hint="positions: data.label_names: {0: first_name, 1: second_name}; a vector: one column per class, "
            "data.label_column_name: [first_name, second_name]; or write the names",
        )
    return False


def _flag(value: object) -> int | None:
    """0 or 1, as number, text or boolean; None for everything else."""
    boolean, number = as_boolean(value), as_number(value)
    if boolean is not None:
        return int(boolean == "true")
    return int(number) if number is not None and number in (0, 1) else None


def _after_spaces(text: str, position: int) -> int:
    while text[position].isspace():
        position += 1
    return position


def _parsed_item(text: str) -> Any:
    """A quoted text without its quotes, a boolean, or the text of a number; None if its escapes are wrong."""
    if text[0] in "'\"":
        for parse in (json.loads, ast.literal_eval) if text[0] == '"' else (ast.literal_eval,):
            with contextlib.suppress(ValueError, SyntaxError):
                return parse(text)
        return None
    boolean = as_boolean(text)
    return boolean == "true" if boolean else text
