"""Cells of the published tables with the baselines, from what `baselines.py` has recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import result_files

RESULTS = "baselines.json"
TITLES = {
    "majority": "majority class",
    "tfidf": "TF-IDF",
    "mean": "mean",
    "dictionary": "dictionary",
    "best-sentence": "best sentence",
}


def best(name: str) -> str:
    """The score and the name of the best baseline on these rows, for a cell of a table; empty if none was scored."""
    scored = result_files.read(RESULTS).get(name, {}).get("baselines", {})
    if not scored:
        return ""
    first = max(scored, key=lambda baseline: float(scored[baseline]["score"]))
    return f"{scored[first]['score']:.3f} ({TITLES[first]})"


def measured(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and numbers of each baseline on these rows, best first."""
    scored: dict[str, dict[str, Any]] = result_files.read(RESULTS).get(name, {}).get("baselines", {})
    for baseline in sorted(scored, key=lambda one: -float(scored[one]["score"])):
        yield f"*baseline: {TITLES[baseline]}*", scored[baseline]


def size(numbers: Mapping[str, Any]) -> str:
    """In MB; a constant has next to none."""
    return f"{numbers['bytes'] / 1e6:.1f} MB" if numbers["bytes"] >= 50_000 else "0 MB"
