"""JSON as its standard defines it: without NaN and infinity, which most other parsers reject."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dumps(
    value: Any, *, indent: int | None = None, sort_keys: bool = False, default: Callable[[Any], Any] | None = None
) -> str:
    """`value` as JSON, with null for every number that is NaN or infinite.

    Args:
        default: replaces what JSON cannot hold, such as dates; without it, that is a TypeError.
    """
    return json.dumps(
        _finite(value), indent=indent, sort_keys=sort_keys, default=default, ensure_ascii=False, allow_nan=False
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
