"""Where a model hurts: on which kinds of rows it scores how, and which rows it gets wrong that its reference got right.

No stage of its own; `evaluate` stands on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli.data import Array

MANY = 20  # values of a column, more of which are taken together
THIRDS = ("low", "middle", "high")


def slices(
    lengths: Array, labels: Sequence[str], confidence: Sequence[float], columns: Mapping[str, Sequence[Any]]
) -> dict[str, Array]:
    """`length=low`, `label=positive`, `confidence=high`, `source=blog`, ... → which rows (N,), none of them empty.

    Args:
        lengths: tokens of each row, `confidence` of the reference in its answer: each cut into three equal parts.
        columns: of the data; a number with many values is cut, too, and of many names the rarer ones are one slice.
    """
    cut = {"length": _thirds(lengths), "label": _names(labels), "confidence": _thirds(confidence)}
    for name, values in columns.items():
        numeric = all(isinstance(value, (int, float)) for value in values)
        cut[name] = _thirds(values) if numeric and len(set(values)) > MANY else _names(values)
    return {f"{name}={value}": rows for name, parts in cut.items() for value, rows in parts.items() if rows.any()}


def regressions(
    rows: Mapping[str, Sequence[Any]], said: Mapping[str, Mapping[str, Sequence[Any]]], reference: str
) -> dict[str, list[Any]]:
    """Columns of the rows that the reference gets right and a model wrong: by model, the surest mistake first.

    Args:
        rows: the texts, and `label`.
        said: model → its columns `prediction` and `confidence`.
    """
    gold, first = rows["label"], said[reference]["prediction"]
    found: dict[str, list[Any]] = {name: [] for name in ("model", "row", *rows, "prediction", "confidence")}
    for model, answers in said.items():
        wrong = [i for i, label in enumerate(gold) if first[i] == label != answers["prediction"][i]]
        for index in sorted(wrong, key=lambda i: -answers["confidence"][i]):
            found["model"].append(model)
            found["row"].append(index)
            for name, values in rows.items():
                found[name].append(values[index])
            for name in ("prediction", "confidence"):
                found[name].append(answers[name][index])
    return found


def _thirds(values: Sequence[float] | Array) -> dict[str, Array]:
    numbers = np.asarray(values, dtype=float)
    low, high = np.quantile(numbers, [1 / 3, 2 / 3])
    return dict(zip(THIRDS, (numbers <= low, (numbers > low) & (numbers <= high), numbers > high), strict=True))


def _names(values: Sequence[Any]) -> dict[str, Array]:
    said = np.asarray([str(value) for value in values])
    names, counts = np.unique(said, return_counts=True)
    kept = sorted(names[np.argsort(-counts, kind="stable")][:MANY].tolist())
    found = {name: said == name for name in kept}
    return found if len(names) <= MANY else {**found, "other": ~np.isin(said, kept)}
