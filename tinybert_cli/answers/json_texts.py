"""JSON that an answer is written in, such as an object in a cell of a CSV file, or in a code block of an LLM."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"^\s*```\w*\s*|\s*```\s*$")


class RepeatedKey(ValueError):
    """An object has a key twice, so that one of the two values would be lost."""


def parsed(value: Any) -> Any:
    """The JSON that a text is; other values unchanged, and so is JSON with a key twice in one object."""
    if not isinstance(value, str):
        return value
    text = without_fence(value)
    if not text.lstrip().startswith(("[", "{")):
        return value
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return value


def without_fence(text: str) -> str:
    """A text without the marks of a code block around it."""
    return _FENCE.sub("", text)


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is malformed; RepeatedKey, if an object has a key twice.
        RecursionError: it is too deep.
    """
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise RepeatedKey("a key twice")
    return result
