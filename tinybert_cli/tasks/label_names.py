"""Class names and their order, from config, data and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.types import Rows

MOST_CLASSES = 10_000  # without names; a larger number is an id, a timestamp or a price


def agreed_names(rows: Rows, data: Data, values: Iterable[object], *, model_names: Sequence[str] | None) -> list[str]:
    """The classes in their order: the model's, or those that config or data name, or the `values` of the labels.

    Raises:
        InputError: data and model disagree, with both lists; or there are no names at all.
    """
    data_names = data.class_names or rows.class_names.get(data.label_column_name)
    labels = {value for value in values if value not in (None, "")}
    if data_names is None and labels:
        if all(isinstance(value, str) and not is_index(value) for value in labels):
            names = sorted(str(value) for value in labels)
            return _same_set(names, model_names, rows, data) if model_names else names
        if model_names is None:
            highest = max([1, *(int(value) for value in labels if is_index(value))])  # type: ignore[call-overload]
            if highest >= MOST_CLASSES:
                raise InputError(
                    f"the labels are numbers up to {highest:,}: too many for classes",
                    where=rows.location(0),
                    hint="check data.label_column_name; for measured numbers: task: regression",
                )
            data_names = [str(index) for index in range(highest + 1)]
    if data_names is None and model_names is None:
        rows.column(data.label_column_name)  # raises, with the columns that exist
        raise InputError(f"no labels in {rows.location(0)}", hint="set data.label_column_name or data.label_names")
    if data_names is not None and model_names is not None and list(data_names) != list(model_names):
        raise InputError(
            f"label names or their order differ between the data and the model\n"
            f"     data:  {', '.join(data_names)}\n     model: {', '.join(model_names)}",
            where=rows.location(0),
            hint="set data.label_names to the names of the integers in the data, in order",
        )
    return list(model_names or data_names or [])


def class_index(value: object, indices: Mapping[str, int]) -> int | None:
    """The index of a label: a name, an index, or an index written as text (CSV); None if it is none of these."""
    if isinstance(value, str) and value in indices:
        return indices[value]
    if is_index(value):
        index = int(value)  # type: ignore[call-overload]
        return index if 0 <= index < len(indices) else None
    return None


def unknown_label(value: object, names: Sequence[str], where: str) -> InputError:
    whole = isinstance(value, float) and value.is_integer()
    guess = f"write {value:.0f}" if whole else nearest(str(value), names)
    hint = "; ".join([*([guess] if guess else []), f"labels: {', '.join(names)}"])
    return InputError(f"unknown label {value!r}", where=where, hint=hint)


def is_index(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit())


def _same_set(names: list[str], model_names: Sequence[str], rows: Rows, data: Data) -> list[str]:
    unknown = sorted(set(names) - set(model_names))
    if unknown:
        column = rows.columns.get(data.label_column_name, [])
        first = next((row for row, value in enumerate(column) if isinstance(value, str) and value in unknown), 0)
        raise InputError(
            f"the data has labels that the model does not have: {', '.join(unknown)}\n"
            f"     data:  {', '.join(names)}\n     model: {', '.join(model_names)}",
            where=rows.location(first),
        )
    return list(model_names)
