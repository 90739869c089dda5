"""Numbers in sentences."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    """A whole number of things: "1 row", "2,000 rows"."""
    return f"{count:,.0f} {noun}" if count == 1 else f"{count:,.0f} {noun}s"
