"""Class names and their order, from config, data and model; and what labels in the data mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.label_values import (
    HIDDEN,
    Matcher,
    all_hidden,
    as_boolean,
    as_number,
    as_text,
    example_list,
    example_mapping,
    in_quotes,
    is_missing,
    listed,
    look_alikes,
    shape,
)
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted, verb

MOST_CLASSES = 10_000  # without names; a larger number is an id, a timestamp or a price
FEW_CLASSES = 20  # distinct numbers that are classes even in a file with few rows
NAMED = "set data.label_names to the names of the integers in the data, in order"
UNNAMED = "the model does not name its classes: set data.label_names to their names, in the order of its outputs"
POSITIONS = "integer labels are read as positions in the model's classes"
LISTED = 10  # names that a warning lists
NO_VALUES = {"", "nan", "NaN", "NAN", "N/A", "n/a", "NA", "#N/A", "<NA>", "null", "NULL", "None", "-", "?"}
MOST_SURE = 10  # classes that no table has too few rows for


def names_in_data(rows: Rows, data: Data) -> list[str] | None:
    """The classes in the order of their indices, if config or data name them."""
    return data.class_names or rows.class_names.get(data.label_column)


def agreed_names(rows: Rows, data: Data, labels: Iterable[object], *, model_names: Sequence[str] | None) -> list[str]:
    """The classes in their order: the model's, or those that config or data name, or the labels themselves.

    Args:
        labels: every label of every row, None where there is none.

    Raises:
        InputError: data and model disagree, with both lists; the labels could be read in two ways; or there are none.
    """
    data_names = names_in_data(rows, data)
    distinct = list(dict.fromkeys(label for label in labels if not is_missing(label)))
    if data_names is not None:
        check_equal(data_names, model_names, rows)
        return list(data_names)
    if model_names is None:
        return _names_of_labels(distinct, rows, data)
    if not all_hidden(distinct):
        _check_labels_of_model(distinct, model_names, rows, data)
    return list(model_names)


def check_equal(data_names: Sequence[str], model_names: Sequence[str] | None, rows: Rows) -> None:
    """InputError if the model has other names than the data, or another order."""
    if model_names is not None and list(data_names) != list(model_names):
        raise InputError(
            f"label names or their order differ between the data and the model\n"
            f"     data:  {listed(data_names, model_names)}\n     model: {listed(model_names, data_names)}",
            where=rows.location(0),
            hint=UNNAMED if all(as_number(name) is not None for name in model_names) else NAMED,
        )


def label_indices(names: Sequence[str]) -> Callable[[object], int | None]:
    """A function from a label to the index of its class, or None.

    A label is a name, or an index into names that are no numbers, also as text. Numbers are compared by value with
    names that are numbers.
    """
    matcher, indices = Matcher(names), {name: index for index, name in enumerate(names)}
    known: dict[tuple[type, object], int | None] = {}

    def index_of(label: object) -> int | None:
        key = (type(label), label)
        if key not in known:
            known[key] = _index(label)
        return known[key]

    def _index(label: object) -> int | None:
        name = matcher.name(label)
        if name is not None:
            return indices[name]
        number = None if matcher.has_numbers else as_number(label)
        if number is None or number != number.to_integral_value() or not 0 <= number < len(indices):
            return None
        return int(number)

    return index_of


def are_names(labels: Iterable[object], names: Sequence[str]) -> bool:
    """Whether every label is one of the names, and none a position in them, so that their order has no meaning."""
    matcher = Matcher(names)
    return all(matcher.name(label) is not None for label in labels if not is_missing(label))


def unknown_label(value: object, names: Sequence[str], where: str) -> InputError:
    """The error for a label that is none of the names; with code points where it looks like one of them."""
    text = as_text(value)
    alike = [name for name in names if shape(name) == shape(text)]
    near = nearest(text, names)
    if isinstance(value, bool):
        hint = 'to name the booleans: data.label_names: {"true": ..., "false": ...}'
    elif alike:
        hint = f"it differs from {in_quotes(alike[0], [text])} only in case, spaces or the encoding of its characters"
    else:
        hint = near or ""
    return InputError(
        f"unknown label {in_quotes(text, names) if isinstance(value, str) else text}",
        where=where,
        hint="; ".join([*([hint] if hint else []), f"labels: {listed(names, [text])}"]),
    )


def hidden_labels_error(rows: Rows) -> InputError:
    """The error where gold labels are needed and every label is -1."""
    return InputError(
        "every label is -1, as in a test set whose labels are withheld",
        where=rows.location(0),
        hint="name a file or a split with labels",
    )


def label_statements(labels: Iterable[object], rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
    """How integer labels were read, if only the model names its classes."""
    if names_in_data(rows, data) is not None:
        return []
    index_of, matcher = label_indices(names), Matcher(names)
    distinct = {label for label in labels if not is_missing(label)}
    positions = sorted(
        {index for label in distinct if matcher.name(label) is None and (index := index_of(label)) is not None}
    )
    if not positions:
        return []
    pairs = ", ".join(f"{index} = {names[index]}" for index in positions[:LISTED])
    more = ", ..." if len(positions) > LISTED else ""
    return [f"{POSITIONS}: {pairs}{more}"]


def of_positions(statements: Iterable[str]) -> list[str]:
    """Those of the statements of a task that say which labels are read as positions."""
    return [statement for statement in statements if statement.startswith(POSITIONS)]


def name_warnings(counts: Mapping[str, int]) -> list[str]:
    """Warnings about classes that look alike, that seem to mean no label, that are too many, and those without rows.

    Args:
        counts: rows of each class, in the order of the classes.
    """
    warnings = []
    groups = look_alikes(counts)
    if groups:
        spelled = "; ".join(
            ", ".join(f"{in_quotes(name, group)} ({counts[name]:,})" for name in group) for group in groups[:LISTED]
        )
        merged = {name: name for name in counts}
        for group in groups:
            most = max(group, key=lambda name: counts[name])
            merged |= dict.fromkeys(group, most)
        warnings.append(
            f"labels that differ only in case, spaces or the encoding of their characters are classes of their own: "
            f"{spelled}; to merge them, set {example_mapping(merged)}"
        )
    for name in (name for name in counts if name.strip() in NO_VALUES and counts[name]):
        warnings.append(
            f"{counted(counts[name], 'label')} {verb(counts[name], 'is', 'are')} {in_quotes(name)}, a class of its "
            f"own: if it means that there is no label, empty {verb(counts[name], 'this cell', 'these cells')}"
        )
    if len(counts) > MOST_SURE and 2 * len(counts) > (rows := sum(counts.values())):
        warnings.append(f"{len(counts):,} classes for {rows:,} labels: check that data.label_column_name is the label")
    empty = [name for name, count in counts.items() if not count]
    if empty:
        more = ", ..." if len(empty) > LISTED else ""
        warnings.append(
            f"{len(empty):,} of {len(counts):,} classes {verb(len(empty), 'does', 'do')} not occur: "
            f"{listed(empty[:LISTED], counts)}{more}"
        )
    return warnings


def _names_of_labels(distinct: Sequence[object], rows: Rows, data: Data) -> list[str]:
    """The labels themselves as names: as many as there are, sorted; numbers by value."""
    if not distinct:
        rows.column(data.label_column)  # raises, with the columns that exist
        raise InputError(f"no labels in {rows.location(0)}", hint="set data.label_column_name or data.label_names")
    if all_hidden(distinct):
        raise hidden_labels_error(rows)
    texts = [label for label in distinct if isinstance(label, str)]
    if any(isinstance(label, bool) for label in distinct) and all(as_boolean(label) for label in distinct):
        spelled = {as_boolean(text): text for text in texts}
        return sorted({spelled.get(as_boolean(label), as_text(label)) for label in distinct})
    others = [label for label in distinct if as_number(label) is None]
    if others and len(texts) == len(distinct):
        return sorted(texts)
    if (odd := next((label for label in others if not isinstance(label, str | bool)), None)) is not None:
        raise InputError(
            f"a label is neither text nor a number nor a boolean: {odd!r}",
            where=_location_of(odd, rows, data),
            hint="write all labels as text",
        )
    if others:
        value = next(label for label in distinct if not isinstance(label, str))
        kind = "boolean" if isinstance(value, bool) else "number"
        raise InputError(
            f"the labels are of two types: {in_quotes(texts[0]) if texts else 'true'} and the {kind} {as_text(value)}",
            where=_location_of(value, rows, data),
            hint="write all labels as text; or name each: "
            + example_mapping({text: text for text in sorted(map(as_text, distinct))}),
        )
    return _names_of_numbers(distinct, rows, data)


def _names_of_numbers(distinct: Sequence[object], rows: Rows, data: Data) -> list[str]:
    numbers = {label: number for label in distinct if (number := as_number(label)) is not None}
    names = [name for _, name in sorted({(number, as_text(label)) for label, number in numbers.items()})]
    highest = max(numbers.values())
    if (highest >= MOST_CLASSES and len(names) * 2 > len(rows)) or len(names) > max(FEW_CLASSES, len(rows) / 2):
        raise InputError(
            f"the labels are {len(names):,} different numbers up to {highest:,}: too many for classes",
            where=rows.location(0),
            hint="check data.label_column_name; for measured numbers: task: regression",
        )
    lowest = min(numbers, key=lambda label: numbers[label])
    fraction = next((label for label, number in numbers.items() if number != number.to_integral_value()), None)
    for label, what in ((fraction, "a fraction"), (lowest if numbers[lowest] < 0 else None, "a negative number")):
        if label is not None:
            raise InputError(
                f"unknown label {as_text(label)}: {what} is not an index",
                where=_location_of(label, rows, data),
                hint=f"if the numbers are classes: {example_list(names)}; for measured numbers: task: regression",
            )
    return names


def _check_labels_of_model(distinct: Sequence[object], model_names: Sequence[str], rows: Rows, data: Data) -> None:
    """InputError if labels are not among the model's names, or if they may or may not be positions in them."""
    index_of, matcher = label_indices(model_names), Matcher(model_names)
    by_name = [label for label in distinct if matcher.name(label) is not None]
    others = [label for label in distinct if matcher.name(label) is None and as_number(label) != HIDDEN]
    unknown = [label for label in others if index_of(label) is None]
    positions = [label for label in others if index_of(label) is not None]
    if unknown or (positions and by_name):
        names, known = sorted({as_text(label) for label in distinct}), set(map(as_text, unknown or positions))
        raise InputError(
            f"the data has labels that the model does not have: {listed(sorted(known), model_names)}\n"
            f"     data:  {listed(names, model_names)}\n     model: {listed(model_names, names)}",
            where=_location_of((unknown or positions)[0], rows, data),
            hint=_remedy_for_unknown(unknown or positions, model_names),
        )
    if positions and not any(as_number(label) == 0 for label in positions):
        lowest = min(positions, key=lambda label: index_of(label) or 0)
        raise InputError(
            f"the labels are numbers from {as_text(lowest)} on: positions in the model's classes are counted from 0",
            where=_location_of(lowest, rows, data),
            hint="set data.label_names to what the numbers mean; counted from 0: " + example_list(model_names),
        )


def _remedy_for_unknown(labels: Sequence[object], model_names: Sequence[str]) -> str:
    if any(as_number(name) is None for name in model_names):
        all_names = example_list([*model_names, *map(as_text, labels)])
        return f"map them to its names: data.label_names: {{label: name, ...}}; for a new model name all, {all_names}"
    if all(as_number(label) is not None for label in labels):
        numbers = sorted({*model_names, *map(as_text, labels)}, key=lambda name: (as_number(name), name))
        return (
            f"for a new model name all classes: {example_list(numbers)}; for one that does not name its classes, name "
            "its outputs in their order"
        )
    return UNNAMED


def _location_of(label: object, rows: Rows, data: Data) -> str:
    """The first row with this label, alone or in a list."""
    for row, value in enumerate(rows.columns.get(data.label_column, [])):
        for item in value if isinstance(value, list) else [value]:
            if type(item) is type(label) and item == label:
                return rows.location(row)
    return rows.location(0)
