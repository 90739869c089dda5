"""Which classes there are and in which order, when config, data and model may each say something of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.types import Rows

MOST_CLASSES = 10_000  # that nobody names; a number beyond is an id, a year in seconds or a price


def agreed_names(rows: Rows, data: Data, values: Iterable[object], *, model_names: Sequence[str] | None) -> list[str]:
    """The classes in their order: the model's, or those that the config or the data names, or the `values` themselves.

    Raises:
        InputError: they differ, with both lists; or nobody names any.
    """
    said = data.class_names or rows.label_names
    found = {value for value in values if value not in (None, "")}
    if said is None and found:
        if all(isinstance(value, str) and not is_position(value) for value in found):
            names = sorted(str(value) for value in found)
            return _same_set(names, model_names, rows, data) if model_names else names
        if model_names is None:
            highest = max([1, *(int(value) for value in found if is_position(value))])  # type: ignore[call-overload]
            if highest >= MOST_CLASSES:
                raise InputError(
                    f"the labels are numbers up to {highest:,}: that many classes can hardly be meant",
                    where=rows.location(0),
                    hint="check data.label_column_name; for numbers that measure something: task: regression",
                )
            said = [str(place) for place in range(highest + 1)]
    if said is None and model_names is None:
        rows.column(data.label_column_name)  # raises, with the columns that there are
        raise InputError(f"no labels in {rows.location(0)}", hint="set data.label_column_name or data.label_names")
    if said is not None and model_names is not None and list(said) != list(model_names):
        raise InputError(
            f"the labels are in another order or have other names\n"
            f"     data:  {', '.join(said)}\n     model: {', '.join(model_names)}",
            where=rows.location(0),
            hint="set data.label_names to the order that the integers in the data stand for",
        )
    return list(model_names or said or [])


def position_of(value: object, position: Mapping[str, int]) -> int | None:
    """Where a label stands: a name, a position, or a position written as text (CSV); None if it is none of these."""
    if isinstance(value, str) and value in position:
        return position[value]
    if is_position(value):
        place = int(value)  # type: ignore[call-overload]
        return place if 0 <= place < len(position) else None
    return None


def unknown_label(value: object, names: Sequence[str], where: str) -> InputError:
    whole = isinstance(value, float) and value.is_integer()
    guess = f"write {value:.0f}" if whole else nearest(str(value), names)
    hint = "; ".join([*([guess] if guess else []), f"labels: {', '.join(names)}"])
    return InputError(f"unknown label {value!r}", where=where, hint=hint)


def is_position(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit())


def _same_set(found: list[str], model_names: Sequence[str], rows: Rows, data: Data) -> list[str]:
    unknown = sorted(set(found) - set(model_names))
    if unknown:
        column = rows.columns.get(data.label_column_name, [])
        first = next((row for row, value in enumerate(column) if isinstance(value, str) and value in unknown), 0)
        raise InputError(
            f"the data has labels that the model does not know: {', '.join(unknown)}\n"
            f"     data:  {', '.join(found)}\n     model: {', '.join(model_names)}",
            where=rows.location(first),
        )
    return list(model_names)
