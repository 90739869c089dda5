"""Teachers that are files with answers: read, joined to the rows of all splits, and calibrated on request."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import artifacts, data, events, tasks
from tinybert_cli.answers import AnswerTeacher, frequent_answers, read_answers, read_teacher
from tinybert_cli.config import Answers, GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.label_values import all_hidden, example_list, is_missing
from tinybert_cli.metrics.calibration import calibration, fitted_temperature, temperature_scaling
from tinybert_cli.stages import teacher_check
from tinybert_cli.types import Array, Rows

FEWEST = 20  # rows with a gold label and an answer that a temperature is fitted and reported on


@dataclass(frozen=True)
class ReadAnswers:
    """The teachers that are no models."""

    teachers: list[AnswerTeacher]
    numbers: dict[str, float]  # for metrics.json


def describe(config: GenSoftLabels) -> list[dict[str, Any]]:
    """The files with answers, for the manifest; InputError if one does not exist."""
    paths = [Path(name) for setting in config.answers for name in setting.files]
    return [dict(artifacts.describe(data.existing_file(path, "teacher.answers_file"))) for path in paths]


def class_names(config: GenSoftLabels, task: tasks.PredictionTask, splits: Mapping[str, Rows]) -> list[str]:
    """The classes without a model that knows them: those that the config or the gold labels of the splits name.

    Raises:
        InputError: neither does.
    """
    settings, column = config.data, config.data.label_column_name
    columns = [column] if isinstance(column, str) else list(column)
    parts = [
        rows
        for rows in splits.values()
        if any(name in rows.columns and not all_hidden(rows.columns[name]) for name in columns)
    ]
    if task.output_type in ("value", "span"):
        return task.label_names(next(iter(splits.values())), settings, model_names=None)
    labels = {
        name: [value for rows in parts for value in rows.columns.get(name, [None] * len(rows))] for name in columns
    }
    if settings.class_names is None and all(is_missing(value) for values in labels.values() for value in values):
        files = [read_answers(setting, settings, task.name) for setting in config.answers]
        examples = [name for file in files for name in frequent_answers(file)]
        raise InputError(
            "the labels have no names: there are no gold labels, and `data.label_names` is not set",
            where=config.teacher_names,
            hint=f"name all labels in their order; the most frequent answers: {example_list(sorted(set(examples)))}",
        )
    classes = {name: names for rows in parts for name, names in rows.class_names.items() if name in columns}
    known = Rows(labels, tuple(origin for rows in parts for origin in rows.origins) or (("data", 0),), classes)
    return task.label_names(known, settings, model_names=None)


def read(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: Mapping[str, Rows],
    names: Sequence[str],
    gold: Mapping[str, Array | None],
) -> Generator[Event, None, ReadAnswers]:
    """The answers as labels of the rows; yields warnings about what could not be used.

    Args:
        gold: the gold labels of each split, for the temperature, and for the order of the labels of each file.

    Raises:
        InputError: the answers cannot be used, or the labels of one of several teachers are mixed up.
    """
    teachers: list[AnswerTeacher] = []
    numbers: dict[str, float] = {}
    for number, setting in enumerate(config.answers, 1):
        teacher = read_teacher(setting, task, splits, names, config.data)
        yield from map(events.warning, teacher.warnings())
        if config.check_teacher and len(config.teachers) > 1:
            yield from map(events.warning, _check_one(config, task, setting, teacher, splits, names, gold))
        temperature = setting.temperature
        if temperature == "auto":
            scaling = _calibrate(config, task, teacher, splits, names, gold)
            temperature = scaling["temperature"]
            prefix = f"answers_{number}." if len(config.answers) > 1 else ""
            numbers |= {f"{prefix}{name}": value for name, value in scaling.items()}
            yield {"event": "calibration", "answers": setting.name, **scaling}
            yield from map(events.warning, _made_worse(setting.name, scaling))
        teachers.append(teacher.at_temperature(temperature) if temperature != 1 else teacher)
    if teachers:
        numbers |= {
            "answers": sum(teacher.used for teacher in teachers),
            "answers_not_understood": sum(teacher.not_understood for teacher in teachers),
            "answers_without_row": sum(len(teacher.unknown) for teacher in teachers),
        }
    return ReadAnswers(teachers, numbers)


def _check_one(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    setting: Answers,
    teacher: AnswerTeacher,
    splits: Mapping[str, Rows],
    names: Sequence[str],
    gold: Mapping[str, Array | None],
) -> Iterator[str]:
    """Warnings that one of several teachers was not checked, or is weak, which the others may hide.

    Raises:
        InputError: its labels are mixed up, or on another scale.
    """
    answered = {split: own.answered for split, own in teacher.labels.items()}
    checked = teacher_check.rows_to_check(config, task, splits, gold, names, answered)
    if checked is None:
        yield f"no row has both a gold label and an answer of {setting.name}: its answers were not checked"
        return
    rows = splits[checked.split].select(checked.indices)
    own = teacher.labels[checked.split].select(np.array(checked.indices))
    predictions = task.decide(own.logits, own.layout, names, rows, config.data, {})
    teacher_check.check_meaning(config, predictions, checked, names, setting)
    yield from teacher_check.weak_teacher(task, predictions, checked, setting.name)


def _calibrate(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    teacher: AnswerTeacher,
    splits: Mapping[str, Rows],
    names: Sequence[str],
    gold: Mapping[str, Array | None],
) -> dict[str, float]:
    """The temperature that fits the rows with gold labels, and the calibration before and after.

    Test rows are left out, as they must choose nothing. After: each half of the rows at the temperature that fits the
    other half.

    Raises:
        InputError: there are too few rows.
    """
    available: dict[str, Array] = {}
    for split, labels in gold.items():
        if labels is not None and split != "test":
            rows = teacher_check.gold_rows(task, splits[split], config, labels)
            available[split] = rows[teacher.labels[split].answered[rows]]
    split = max(available, key=lambda name: len(available[name]), default="")
    rows = available.get(split, np.zeros(0, dtype=int))
    if len(rows) < FEWEST:
        raise InputError(
            f"`temperature: auto` needs {FEWEST} rows with a gold label and an answer, outside of the test split, and "
            f"there are {len(rows)}",
            where=teacher.setting.name,
            hint="answer more rows that have gold labels, or set a number",
        )
    selected, own = splits[split].select(rows.tolist()), teacher.labels[split].select(rows)
    metric = task.metric(selected, config.data, names)
    assert metric is not None  # there are gold labels
    decisions = metric.class_logits(task.decide(own.logits, own.layout, names, selected, config.data, {}))
    assert decisions is not None  # see checks.py
    scaled = temperature_scaling(*decisions, fitted_temperature)
    return {
        "temperature": scaled["temperature"],
        "calibration_rows": len(rows),
        **calibration(*decisions),
        "ece_scaled": scaled["ece_scaled"],
        "brier_scaled": scaled["brier_scaled"],
    }


def _made_worse(answers: str, scaling: Mapping[str, float]) -> list[str]:
    """A warning if the calibration is worse at the fitted temperature, on rows that it was not fitted on."""
    names = {"ece": "calibration error", "brier": "Brier score"}
    worse = [words for name, words in names.items() if scaling[f"{name}_scaled"] > scaling[name]]
    if not worse:
        return []
    return [
        f"the fitted temperature of {answers} makes the {' and the '.join(worse)} worse on rows that it was not fitted "
        "on: it fits better with more gold labels; `temperature: 1` leaves the confidences as they are"
    ]


def weights(config: GenSoftLabels) -> list[float]:
    """Those of the models, then those of the files with answers."""
    own = config.teacher_weights or [1.0] * len(config.teachers)
    pairs = list(zip(own, config.teachers, strict=True))
    of_answers = [weight for weight, teacher in pairs if isinstance(teacher, Answers)]
    return [weight for weight, teacher in pairs if not isinstance(teacher, Answers)] + of_answers
