"""Spans of characters with a label, in the forms that annotation tools, pipelines and LLMs write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinybert_cli.label_values import as_number

_BEGIN = ("start", "start_offset", "begin", "start_char", "answer_start")
_END = ("end", "end_offset", "end_char")
_LABEL = ("label", "labels", "type", "entity_group", "entity", "tag", "category")
_TEXT = ("text", "word", "span", "mention")
# Letters and digits of scripts that separate words by spaces and add no particles to them: Latin, Greek, Cyrillic.
WORD_LETTERS = "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0300-\u036f\u0386\u0388-\u052f\u1e00-\u1fff"
FORMS = '[0, 3, "PER"], {"start": 0, "end": 3, "label": "PER"} or {"text": "Ada", "label": "PER"}'


@dataclass(frozen=True)
class Span:
    """A labelled part of a text: by its characters, by its words, or by both."""

    label: str
    begin: int | None  # in characters
    end: int | None
    text: str | None


def read_spans(items: Sequence[Any]) -> list[Span] | None:
    """The spans in a list; None if an item is in no known form."""
    spans = [list(_spans_of(item)) for item in items]
    return [span for own in spans for span in own] if all(spans) else None


def character(value: Any) -> int | None:
    """The position in a text that a value is, in whatever form the number is written; None for everything else."""
    number = as_number(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def of_utf16(text: str, position: int) -> int:
    """A position of programs that count as JavaScript does, where a character outside of the basic plane is two, as a
    position in `text`; -1 if it is beyond the end."""
    raw = text.encode("utf-16-le", errors="surrogatepass")
    return len(raw[: 2 * position].decode("utf-16-le", errors="replace")) if 2 * position <= len(raw) else -1


def _spans_of(item: Any) -> Iterator[Span]:
    """One span, several if it has several labels, none if it is in no known form."""
    if isinstance(item, Sequence) and not isinstance(item, str):
        begin, end = map(character, item[:2]) if len(item) == 3 else (None, None)
        if begin is not None and end is not None and isinstance(item[2], str):
            yield Span(item[2], begin, end, None)
    elif isinstance(item, Mapping):
        inner = item["value"] if isinstance(item.get("value"), Mapping) else item
        label, text = _first(inner, _LABEL), _first(inner, _TEXT)
        begin, end = character(_first(inner, _BEGIN)), character(_first(inner, _END))
        labels = label if isinstance(label, list) else [label]
        known = begin is not None and end is not None
        if all(isinstance(one, str) for one in labels) and (known or _is_text(text)):
            for one in labels:
                yield Span(one, begin if known else None, end if known else None, text if _is_text(text) else None)


def _first(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
