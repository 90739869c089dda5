"""Where a model hurts: on which kinds of rows it scores how, and which rows it gets wrong that its reference got right.

No stage of its own; `evaluate` stands on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli.types import Array

MANY = 20  # values of a column, more of which are taken together
THIRDS = ("low", "middle", "high")


def slices(
    lengths: Array,
    kinds: Mapping[str, Array],
    confidence: Sequence[float] | None,
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, Array]:
    """`length=low`, `label=positive`, `confidence=high`, `source=blog`, ... → which rows (N,), none of them empty.

    Args:
        lengths: tokens of each row, `confidence` of the reference in its answer: each cut into three equal parts.
        kinds: what the gold answer is → which rows have it.
        columns: of the data; a number with many values is cut, too, and of many names the rarer ones are one slice.
    """
    cut = {"length": _thirds(lengths), "label": _most(kinds)}
    if confidence is not None:
        cut["confidence"] = _thirds(confidence)
    for name, values in columns.items():
        numeric = all(isinstance(value, (int, float)) for value in values)
        cut[name] = _thirds(values) if numeric and len(set(values)) > MANY else _names(values)
    return {f"{name}={value}": rows for name, parts in cut.items() for value, rows in parts.items() if rows.any()}


def regressions(
    rows: Mapping[str, Sequence[Any]],
    said: Mapping[str, Mapping[str, Sequence[Any]]],
    credits: Mapping[str, Array],
    reference: str,
) -> dict[str, list[Any]]:
    """Columns of the rows that the reference gets right and a model wrong, or less right: by model, the worst first.

    Args:
        rows: the texts, and `label`.
        said: model → its columns `prediction`, and `confidence` if there is such a thing.
        credits: model → how good its answers are (N,), 1 at best. Of two equally bad ones the surer is worse.
    """
    columns = list(said[reference])
    found: dict[str, list[Any]] = {name: [] for name in ("model", "row", *rows, *columns)}
    for model, answers in said.items():
        lost = credits[reference] - credits[model]
        surest = np.asarray(answers.get("confidence", np.zeros(len(lost))), dtype=float)
        for index in np.lexsort((-surest, -lost)):
            if lost[index] <= 0:
                break
            found["model"].append(model)
            found["row"].append(int(index))
            for name, values in rows.items():
                found[name].append(values[index])
            for name in columns:
                found[name].append(answers[name][index])
    return found


def _thirds(values: Sequence[float] | Array) -> dict[str, Array]:
    numbers = np.asarray(values, dtype=float)
    low, high = np.quantile(numbers, [1 / 3, 2 / 3])
    return dict(zip(THIRDS, (numbers <= low, (numbers > low) & (numbers <= high), numbers > high), strict=True))


def _names(values: Sequence[Any]) -> dict[str, Array]:
    said = np.asarray([str(value) for value in values])
    return _most({str(name): said == name for name in np.unique(said)})


def _most(kinds: Mapping[str, Array]) -> dict[str, Array]:
    """All of them, or the MANY with the most rows, by name, and `other` for the rows that have none of these."""
    if len(kinds) <= MANY:
        return dict(kinds)
    kept = sorted(sorted(kinds, key=lambda name: -int(kinds[name].sum()))[:MANY])
    found = {name: kinds[name] for name in kept}
    return {**found, "other": ~np.any(list(found.values()), axis=0)}
