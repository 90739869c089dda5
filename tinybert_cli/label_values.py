"""Labels as values: numbers and booleans that are written differently, and names that look alike."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"\s*([+-]?\d+(\.\d*)?)\s*", re.ASCII)
_BOOLEANS = ("false", "true")
_ONE_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_LONGEST = 4000  # characters of a number; Python reads no integers of more than 4,300 digits
HIDDEN = -1  # in place of labels that are withheld, in the test sets of the Hub
MAPPED = 20  # labels that an example of `data.label_names` lists


def is_missing(value: object) -> bool:
    """Whether a row has no label: null, an empty cell, or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def all_hidden(labels: Iterable[object]) -> bool:
    """Whether every label is -1, as in the test sets of the Hub."""
    return all(as_number(label) == HIDDEN for label in labels)


def as_number(value: object) -> Decimal | None:
    """The number that a label is: 1, 1.0, "1", "1.0" and a Decimal are the same; None for booleans and other text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value) if len(value) <= _LONGEST else None
        return None if match is None else Decimal(match[1])
    if not isinstance(value, int) and not math.isfinite(value):
        return None
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def read_number(value: object, *, comma: bool = False) -> float | None:
    """A measured number, also as text such as 1e-3 or .5; None for booleans, other text, NaN and infinity.

    Args:
        comma: a comma in a text is the decimal point.
    """
    if isinstance(value, bool):
        return None
    try:
        number = float(value.replace(",", ".") if comma and isinstance(value, str) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def have_decimal_commas(values: Iterable[object]) -> bool:
    """Whether the values prove that a comma stands for the decimal point: none has a point, and in one of them the
    digits after the comma cannot be thousands."""
    texts = [value for value in values if isinstance(value, str)]
    with_comma = [text for text in texts if "," in text]
    if any("." in text for text in texts) or not all(_ONE_COMMA.fullmatch(text) for text in with_comma):
        return False
    return any(len(text.strip().partition(",")[2]) != 3 or text.strip().lstrip("+-")[0] == "0" for text in with_comma)


def without_default_names(names: Sequence[str]) -> list[str] | None:
    """The names of a model's outputs; None if they are those that transformers gives to outputs without names."""
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else list(names)


def as_boolean(value: object) -> str | None:
    """`true` or `false`, whether a boolean or a word in upper or lower case; None for everything else."""
    word = str(value).strip().lower() if isinstance(value, str | bool) else ""
    return word if word in _BOOLEANS else None


def as_text(value: object) -> str:
    """A label as text: 1 for 1.0, true for a boolean, all other text unchanged."""
    number = as_number(value)
    if isinstance(value, bool):
        return str(value).lower()
    if number is None or (isinstance(value, str) and re.match(r"[+-]?0\d", value.strip())):  # 01 is a code
        return str(value)
    return str(int(number)) if number == number.to_integral_value() else str(value)


class Matcher:
    """Finds the name that a label has, in whatever form: numbers by value, booleans in upper or lower case."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._exact = set(self.names)
        self._by_number = _unique((as_number(name), name) for name in self.names)
        self._by_boolean = _unique((as_boolean(name), name) for name in self.names)
        self.has_numbers = any(as_number(name) is not None for name in self.names)

    def name(self, value: object) -> str | None:
        """The name of a label; None if it has none."""
        if isinstance(value, str) and value in self._exact:
            return value
        return self._by_boolean.get(as_boolean(value)) or self._by_number.get(as_number(value))


def _unique(pairs: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    """The names by their key; without keys that are None or that several names have."""
    by_key: dict[Any, list[str]] = {}
    for key, name in pairs:
        by_key.setdefault(key, []).append(name)
    return {key: names[0] for key, names in by_key.items() if key is not None and len(names) == 1}


def shape(name: str) -> str:
    """What is left of a name without case, spaces at its ends and invisible characters; accents composed."""
    number = as_number(name)
    if number is not None:
        return str(number.normalize())
    text = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that look alike."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(shape(name), []).append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def in_quotes(name: str, others: Iterable[str] = ()) -> str:
    """A name in quotes, with code points if it has invisible characters or looks like one of the others."""
    if not name.isprintable() or any(_look_equal(name, other) for other in others):
        return json.dumps(name)
    return f"'{name}'"


def listed(names: Sequence[str], others: Iterable[str] = ()) -> str:
    """Names for a message; in quotes, with code points, where one looks like one of the others."""
    known = list(others)
    equal = any(_look_equal(name, other) for name in names for other in known if shape(name) == shape(other))
    return ", ".join(in_quotes(name, known) if equal or not name.isprintable() else name for name in names)


def example_mapping(names: Mapping[str, str]) -> str:
    """`data.label_names` as a mapping, for a message; the remedy can be copied into a config."""
    pairs = [f"{_yaml(label)}: {_yaml(name)}" for label, name in list(names.items())[:MAPPED]]
    more = [f"... ({len(names)} labels)"] if len(names) > MAPPED else []
    return f"data.label_names: {{{', '.join([*pairs, *more])}}}"


def example_list(names: Sequence[str]) -> str:
    """`data.label_names` as a list, for a message."""
    more = [f"... ({len(names)} labels)"] if len(names) > MAPPED else []
    return f"data.label_names: [{', '.join([*map(_yaml, names[:MAPPED]), *more])}]"


def _yaml(name: str) -> str:
    """A name in double quotes, in ASCII unless it can be written in one way only."""
    composed = unicodedata.normalize("NFC", name)
    is_plain = name.isprintable() and unicodedata.normalize("NFD", composed) == composed
    return json.dumps(name, ensure_ascii=not is_plain)


def _look_equal(one: str, other: str) -> bool:
    """Whether two different names are equal on a screen, such as composed and decomposed accents, or a Cyrillic a."""
    if one == other:
        return False
    if unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other):
        return True
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b or a.isascii() != b.isascii() for a, b in pairs)
