"""Settings of `data` that contradict each other, or that nothing would read. Nothing here opens a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinybert_cli import configuration, tasks
from tinybert_cli.config import Data
from tinybert_cli.data.readers import format_of
from tinybert_cli.errors import ConfigError

Settings = Mapping[str, Any]

WITHOUT_CLASSES = ("regression", "question-answering")
FILES = ("train_file", "validation_file", "test_file", "unlabeled_file")
OF_FORMATS = {"delimiter": ("csv", "tsv"), "quoting": ("csv", "tsv"), "conll_column_names": ("conll",)}
"""Setting → the file formats that it describes."""
OF_DATASETS = (
    "dataset_config_name", "dataset_revision", "train_split_name", "validation_split_name", "test_split_name",
)  # fmt: skip


def check(task: str, data: Settings) -> None:
    """The checks of `data` that its types cannot express, except those of streams and of translation.

    Raises:
        ExceptionGroup: the problems, each a ConfigError.
    """
    problems = _label_problems(task, data), _text_that_is_label(task, data), _repeated_columns(data)
    configuration.raise_all(itertools.chain(*problems, _unused_stride(task, data), of_other_sources(data)))


def _label_problems(task: str, data: Settings) -> Iterator[ConfigError]:
    """Settings for several labels per row belong to multi-label classification, class names to tasks with classes."""
    if data.get("label_names") is not None and task in WITHOUT_CLASSES:
        yield ConfigError(
            f"{task} has no classes, so `label_names` would be ignored",
            key=("data", "label_names"),
            hint="leave it out, or check the task",
        )
    if task in ("multi-label-classification", "translation"):
        return
    if isinstance(data.get("label_column_name"), list):
        yield ConfigError(
            "several label columns are for multi-label-classification, one per class",
            key=("data", "label_column_name"),
            hint="name one column, or set task: multi-label-classification",
        )
    if data.get("label_separator") is not None:
        yield ConfigError(
            f"{task} has no cells with several labels to split",
            key=("data", "label_separator"),
            hint="leave it out, or set task: multi-label-classification",
        )


def _text_that_is_label(task: str, data: Settings) -> Iterator[ConfigError]:
    """The label is no text that a model reads: it would learn to copy it."""
    if task == "language-modeling":
        return
    columns = Data(**{key: data[key] for key in ("text_column_names", "label_column_name") if key in data})
    labels = columns.label_column_name
    both = [name for name in columns.text_columns if name in ([labels] if isinstance(labels, str) else labels)]
    if both:
        yield ConfigError(
            f"the column '{both[0]}' is both text and label",
            key=("data", "label_column_name"),
            hint="name another column in text_column_names or in label_column_name",
        )


def _repeated_columns(data: Settings) -> Iterator[ConfigError]:
    """A column that is named twice is a pair of equal texts, two classes, or hides another column of a CoNLL file.

    Columns of CoNLL files that nothing reads may all be called `_`.
    """
    columns = Data(**{key: data[key] for key in ("text_column_names", "label_column_name") if key in data})
    read = [*columns.text_columns, *columns.label_columns]
    for key in ("text_column_names", "label_column_name", "conll_column_names"):
        names = data.get(key)
        if repeated := [name for name in read if isinstance(names, list) and names.count(name) > 1]:
            yield ConfigError(
                f"the column '{repeated[0]}' is named twice", key=("data", key), hint="name each column once"
            )


def of_other_sources(data: Settings) -> Iterator[ConfigError]:
    """An error for each setting that describes another kind of file than those that are named, or a dataset.

    A run.yaml has all settings, so that one with its default value is no error. Nor is one of a dataset beside
    `dataset_name: null`, which replaces the dataset of a recipe by files.
    """
    if data.get("dataset_name") is not None:
        return
    given = _given(data)
    for name in OF_DATASETS:
        if name in given and "dataset_name" not in data:
            yield ConfigError(
                f"`{name}` is of a dataset, but there is no `dataset_name`",
                key=("data", name),
                hint="set dataset_name, or leave it out",
            )
    formats = {format_of(Path(path)) for path in _files(data)}
    for name, described in OF_FORMATS.items():
        if name in given and formats and formats.isdisjoint(described):
            yield ConfigError(
                f"`{name}` describes {' and '.join(described)} files, but no such file is named",
                key=("data", name),
                hint=f"leave it out, or rename the file to .{described[0]}",
            )


def _unused_stride(task: str, data: Settings) -> Iterator[ConfigError]:
    definition = tasks.find(task)
    splits = not isinstance(definition, tasks.PredictionTask) or definition.splits_long_texts
    if "doc_stride" in _given(data) and not splits:
        yield ConfigError(
            f"{task} truncates a long text at `max_seq_length`, so `doc_stride` would be ignored",
            key=("data", "doc_stride"),
            hint="leave it out",
        )


def _given(data: Settings) -> set[str]:
    """The settings with other values than the defaults."""
    return {name for name, field in Data.model_fields.items() if data.get(name, field.default) != field.default}


def _files(data: Settings) -> Iterator[str]:
    for name in FILES:
        value = data.get(name)
        yield from [value] if isinstance(value, str) else value or []
