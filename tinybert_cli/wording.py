"""Numbers in sentences."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    """A whole number of things: "1 row", "2,000 rows"."""
    return f"{count:,.0f} {noun}" if count == 1 else f"{count:,.0f} {noun}s"


def verb(count: float, singular: str, plural: str) -> str:
    """The verb of so many things: 1 of 8 rows "has", 2 of 8 rows "have"."""
    return singular if count == 1 else plural
