"""Slices: metrics per subset of rows; and the rows that the reference gets right and a model does not.

Shapes: N rows, K slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, Sums, weighted_sums
from tinybert_cli.scratch_files import bound_mapped_memory, counts, empty
from tinybert_cli.types import Array, Predictions

MOST_VALUES = 20  # values of a column that get a slice each; the others are one slice together
THIRDS = ("low", "middle", "high")
PREDICTED = ("prediction", "confidence")  # the columns of predictions


def slices(
    lengths: Array, label_slices: Mapping[str, Array], confidences: Array | None, columns: Mapping[str, Sequence[Any]]
) -> dict[str, Array]:
    """`length=low`, `label=positive`, `confidence=high`, `source=blog`, ... → which rows (N,); none is empty.

    Args:
        lengths: tokens of each row, in three equal parts; likewise the `confidences` of the reference.
        label_slices: by the gold value, see `Metric.label_slices`.
        columns: of the data; numbers with many values are divided into thirds (rows without one are `none`), and rare
            values are one slice.
    """
    parts: dict[str, Mapping[str, Array]] = {"length": _thirds(lengths), "label": label_slices}
    if confidences is not None:
        parts["confidence"] = _thirds(confidences)
    for name, values in columns.items():
        numeric = all(isinstance(value, int | float | None) for value in values)
        many = numeric and len({value for value in values if value == value}) > MOST_VALUES  # NaN equals nothing
        parts[name] = _of_numbers(values) if many else by_value(values)
    return _stored(
        {f"{name}={value}": rows for name, part in parts.items() for value, rows in part.items() if rows.any()}
    )


def slice_scores(metric: Metric, statistics: Statistics, slices: Mapping[str, Array], name: str) -> dict[str, float]:
    """slice → the metric `name` on its rows."""
    if not slices:
        return {}

    def sums_of(rows: Array) -> Sums:
        return weighted_sums(statistics, rows.astype(np.float64)[None])

    parts = list(map(sums_of, slices.values()))  # one slice at a time: each is 8 bytes for each row
    sums = {key: np.concatenate([part[key] for part in parts]) for key in statistics}
    return dict(zip(slices, metric.from_sums(sums)[name].tolist(), strict=True))


def regressions(
    rows: Mapping[str, Sequence[Any]],
    predictions: Mapping[str, Predictions],
    row_scores: Mapping[str, Array],
    reference: str,
) -> dict[str, list[Any]]:
    """Columns of the rows on which a model scores less than the reference, by model, the largest loss first.

    Args:
        rows: the texts, and `label`.
        predictions: by model. Of two equal losses the more confident prediction comes first.
        row_scores: model → (N,), see `Metric.row_scores`.
    """
    columns = {model: prediction_columns(values) for model, values in predictions.items()}
    names = list(columns[reference])
    table: dict[str, list[Any]] = {name: [] for name in ("model", "row", *rows, *names)}
    for model, values in columns.items():
        loss = row_scores[reference] - row_scores[model]
        worse = np.flatnonzero(loss > 0)
        confidences = np.asarray(values["confidence"])[worse] if "confidence" in values else np.zeros(len(worse))
        for index in worse[np.lexsort((-confidences, -loss[worse]))].tolist():
            table["model"].append(model)
            table["row"].append(index)
            for name, column in rows.items():
                table[name].append(column[index])
            for name in names:
                value = values[name][index]
                table[name].append(float(value) if name == "confidence" else value)
    return table


def prediction_columns(predictions: Predictions) -> dict[str, Sequence[Any] | Array]:
    """`prediction`, and `confidence` if there is any, as columns of a table (N,)."""
    columns: dict[str, Sequence[Any] | Array] = {"prediction": predictions.values}
    if predictions.confidences is not None:
        columns["confidence"] = predictions.confidences
    return columns


def by_value(values: Sequence[Any]) -> dict[str, Array]:
    """A slice for each value, or for the most frequent ones and `other` for the rest."""
    index: dict[str, int] = {}
    positions = (index.setdefault(str(value), len(index)) for value in values)
    indices = np.fromiter(positions, dtype=np.int32, count=len(values))
    sizes = counts(indices, minlength=len(index)).tolist()
    return most_frequent(
        {name: sizes[position] for name, position in sorted(index.items())},
        lambda name: np.asarray(indices == index[name]),
    )


def most_frequent(counts: Mapping[str, int], rows_of: Callable[[str], Array]) -> dict[str, Array]:
    """A slice for each name, or for the MOST_VALUES most frequent ones and `other` for rows in none of these.

    If one of these is itself called `other`, the rest is `other values`.

    Args:
        counts: name → how many rows it has.
        rows_of: which rows (N,) a name has; called for the selected names only.
    """
    selected = list(counts)
    if len(counts) > MOST_VALUES:
        selected = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_VALUES])
    rows = {name: rows_of(name) for name in selected}
    if len(selected) == len(counts):
        return rows
    rest = ~np.any(list(rows.values()), axis=0)
    return {**rows, "other values" if "other" in rows else "other": rest}


def unused_name(name: str, names: Iterable[str]) -> str:
    """The name of a slice for rows without a label: `name`, or `no label` if a label has that name."""
    return "no label" if name in set(names) else name


def _thirds(values: Sequence[float] | Array) -> dict[str, Array]:
    bound_mapped_memory()
    numbers = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=float)
    low, high = np.quantile(numbers.astype(float), [1 / 3, 2 / 3], overwrite_input=True)  # of a copy
    return dict(zip(THIRDS, (numbers <= low, (numbers > low) & (numbers <= high), numbers > high), strict=True))


def _of_numbers(values: Sequence[float | None]) -> dict[str, Array]:
    """Thirds of the numbers, and `none` for the rows without one: null, or NaN."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    known = ~np.isnan(numbers)
    thirds = _thirds(numbers[known]) if known.any() else {}
    slices = {name: np.zeros(len(numbers), dtype=bool) for name in thirds}
    for name, rows in thirds.items():
        slices[name][known] = rows
    return {**slices, "none": ~known}


def _stored(slices: Mapping[str, Array]) -> dict[str, Array]:
    """The same slices in one array, in a scratch file if it is large."""
    size = len(next(iter(slices.values()), ()))
    table = empty((len(slices), size), bool)
    for stored, rows in zip(table, slices.values(), strict=True):
        stored[...] = rows
        bound_mapped_memory()
    return dict(zip(slices, table, strict=True))
