"""The classes of a teacher that already exists, and the labels of the data: which is which."""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence

import numpy as np

from tinybert_cli import tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_number, example_list, example_mapping, in_quotes, listed, shape
from tinybert_cli.metrics.comparison import best_class_order, confusion_matrix
from tinybert_cli.types import Array, Rows

CHECKED_ROWS = 200  # that the teacher predicts, to find out which class is which label; as many of each label
FEWEST_OF_A_LABEL = 5
UNKNOWN = "?"  # in a mapping to write, instead of a class that is not known
CLEARLY = 0.1  # by how much the best order of the classes must beat the majority class

LabelNames = list[str] | dict[str, str]


def labels_of(teacher: str, task: tasks.PredictionTask, rows: Rows, data: Data) -> tuple[LabelNames | None, str | None]:
    """`data.label_names` with which the labels of the data are the classes of the teacher, and a note about them.

    Classes without names (LABEL_0) are named by the labels of the rows that the teacher assigns to them.

    Raises:
        InputError: the teacher is for another task, or has other classes than the data; with both lists, and the
            setting that maps one to the other.
    """
    from tinybert_cli import models

    source = models.locate(teacher)
    config = models.read_config(source)
    own_task = tasks.of_model(config)
    if own_task.output_type != task.output_type or own_task.head != task.head:
        raise InputError(
            f"the teacher is a model for {own_task.name}, but the data looks like {task.name}",
            where=teacher,
            hint=f"if the data is for it: --task {own_task.name} --text COLUMN --label COLUMN",
        )
    if task.output_type not in ("class", "classes"):
        return None, None
    names = models.read_label_names(source)
    data_names = task.label_names(rows, data, model_names=None)
    if data.class_names is not None:
        if names is not None and not {*data.class_names} <= {*names}:
            raise _different(teacher, names, data.class_names, rows)
        return data.label_names, None
    if names is not None:
        return _named(teacher, names, data_names, rows)
    count = len(models.check_outputs(source, None, task.problem))
    if count != len(data_names):
        raise _different(teacher, [f"LABEL_{index}" for index in range(count)], data_names, rows)
    if task.name != "text-classification":
        raise InputError(
            f"'{teacher}' does not name its {count} classes",
            hint=_naming(data_names),
        )
    return _by_prediction(teacher, task, data_names, rows, data)


def _named(
    teacher: str, names: Sequence[str], data_names: Sequence[str], rows: Rows
) -> tuple[LabelNames | None, str | None]:
    if set(names) == set(data_names):
        return list(names), None
    numbers = [as_number(name) for name in data_names]
    if all(number is not None and number == index for index, number in enumerate(numbers)) and len(numbers) <= len(
        names
    ):
        pairs = ", ".join(f"{index} = {names[index]}" for index in range(len(numbers)))
        return {str(index): name for index, name in enumerate(names)}, f"numbers are the teacher's classes: {pairs}"
    shapes = {shape(name): name for name in data_names}
    if len(names) == len(data_names) == len(shapes) and {shape(name) for name in names} == shapes.keys():
        return {shapes[shape(name)]: name for name in names}, "labels are written as the teacher writes them"
    if {*data_names} < {*names}:
        return list(names), f"{len(names) - len(data_names)} classes of the teacher are not in the data"
    raise _different(teacher, names, data_names, rows)


def _by_prediction(
    teacher: str, task: tasks.PredictionTask, data_names: Sequence[str], rows: Rows, data: Data
) -> tuple[LabelNames, str]:
    """The names in the order of the outputs, from the labels of rows that the teacher predicts."""
    from tinybert_cli.predictor import load_predictor

    labels = task.labels(rows, data, data_names)
    assert labels is not None  # there are label names
    chosen = _balanced(labels, len(data_names))
    sample, gold = rows.select(chosen), labels[chosen]
    predictor = load_predictor(teacher)
    texts = list(zip(*(sample.column(name) for name in data.text_columns), strict=True))
    predicted = [row["probabilities"] for row in predictor.predict(texts)]
    logits = np.array([[row[name] for name in predictor.label_names] for row in predicted])
    order = best_class_order(logits, gold)
    matrix = confusion_matrix(logits, gold)
    agreed = int(sum(matrix[label, output] for label, output in enumerate(order)))
    majority = int(matrix.sum(1).max())
    names = [data_names[order.index(output)] for output in range(len(order))]
    pairs = ", ".join(f"LABEL_{output} = {name}" for output, name in enumerate(names))
    if agreed < majority + CLEARLY * len(sample):
        raise InputError(
            f"'{teacher}' does not name its classes, and its predictions do not tell: at best {agreed} of "
            f"{len(sample)} rows agree ({majority} are of the largest class)",
            where=rows.origins[0][0],
            hint=f"if it was trained for these labels, {_naming(data_names)}",
        )
    unclear = [data_names[label] for label in range(len(order)) if not _is_clear(matrix, label, order[label])]
    if len(unclear) > 1:  # a single one is what the others leave
        raise InputError(
            f"'{teacher}' does not name its classes, and its predictions do not tell which of them are "
            f"{', '.join(map(in_quotes, unclear))}",
            where=rows.origins[0][0],
            hint=_naming(data_names),
        )
    return names, f"{pairs}: so {agreed} of {len(sample)} labels agree with its predictions"


def _balanced(labels: Array, classes: int) -> list[int]:
    """Random rows, as many of each label if there are as many: the rare classes have to be found, too."""
    chosen: list[int] = []
    for label in range(classes):
        rows = np.flatnonzero(labels == label).tolist()
        chosen += random.Random(0).sample(rows, min(len(rows), max(FEWEST_OF_A_LABEL, CHECKED_ROWS // classes)))
    return sorted(chosen)


def _is_clear(matrix: Array, label: int, output: int) -> bool:
    """Whether most rows of the label are predicted as the output, and most rows of the output have the label."""
    own = matrix[label, output]
    return bool((matrix[label] >= own).sum() == 1 and (matrix[:, output] >= own).sum() == 1)


def _different(teacher: str, names: Sequence[str], data_names: Sequence[str], rows: Rows) -> InputError:
    mapping = {label: _likely_class(label, names) for label in data_names}
    setting = example_mapping(mapping).replace("data.label_names: ", "data.label_names=")
    what = f"replace each {UNKNOWN} by a class of the teacher" if UNKNOWN in mapping.values() else "check this mapping"
    return InputError(
        f"the labels of the data are not the classes of the teacher\n     data:    {listed(data_names, names)}\n"
        f"     teacher: {listed(names, data_names)}",
        where=f"{rows.origins[0][0]}, {teacher}",
        hint=f"{what}, then add it to the command: '{setting}'",
    )


def _naming(names: Sequence[str]) -> str:
    setting = example_list(list(names)).replace("data.label_names: ", "data.label_names=")
    return f"name them in the order of its outputs: add to the command, for example, '{setting}'"


def _likely_class(label: str, names: Sequence[str]) -> str:
    """The class that is written almost like the label; what the user has to fill in if there is none."""
    by_shape = {shape(name): name for name in names}
    near = difflib.get_close_matches(shape(label), list(by_shape), n=1, cutoff=0.8)
    return by_shape[near[0]] if near else UNKNOWN
