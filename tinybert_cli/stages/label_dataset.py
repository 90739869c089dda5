"""Whether a label dataset fits a config: its task, its classes and the text that its labels belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinybert_cli import events, tasks
from tinybert_cli.config import Distill, Finetune
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.label_values import listed
from tinybert_cli.stages.answer_checks import answers_of

NAMED_OUTPUTS = ("class", "classes")  # output types whose numbers have the names in `data.label_names`


def check(folder: Path, manifest: Mapping[str, Any], config: Finetune | Distill, task: tasks.Task) -> Iterator[Event]:
    """Yields warnings if its teacher read other columns than this run, or less of a text.

    Raises:
        InputError: it was made for another task, its classes or their order are not those of the config, or its teacher
            read one text per row and this config names two, or vice versa.
    """
    made_for = manifest["settings"]["task"]
    if made_for != task.name:
        raise InputError(
            f"'{folder}' has labels of {made_for}, but the config is for {task.name}",
            hint=f"set task: {made_for}, or label the rows with a model of {task.name}",
        )
    names, in_config = manifest.get("label_names"), config.data.class_names
    one_column = isinstance(config.data.label_column_name, str)
    if one_column and isinstance(task, tasks.PredictionTask) and task.output_type in NAMED_OUTPUTS:
        _check_names(folder, names, in_config)
    columns = manifest.get("text_columns")  # not in label datasets of tinybert 0.1
    own = config.data.text_columns
    if columns is not None and len(columns) != len(own):
        raise InputError(
            f"'{folder}' was made from {tasks.in_words(columns)}, but the config names {tasks.in_words(own)}",
            hint="check data.text_column_names",
        )
    if columns is not None and columns != own:
        yield events.warning(
            f"the labels in '{folder}' are those of {tasks.in_words(columns)}, but this run reads "
            f"{tasks.in_words(own)}: check data.text_column_names"
        )
    yield from _shorter_texts(folder, manifest["settings"], config, task)


def _shorter_texts(
    folder: Path, made: Mapping[str, Any], config: Finetune | Distill, task: tasks.Task
) -> Iterator[Event]:
    """A warning if the teacher, a model, truncated texts that this run reads."""
    if not isinstance(task, tasks.PredictionTask) or task.splits_long_texts or list(answers_of(made.get("teacher"))):
        return
    length, own = made["data"]["max_seq_length"], config.data.max_seq_length
    if length < own:
        yield events.warning(
            f"the teacher of '{folder}' read the first {length} tokens of a text, and this run reads {own}: labels of "
            f"longer texts are those of their beginning; set data.max_seq_length: {length}, or label them again"
        )


def _check_names(folder: Path, names: list[str] | None, in_config: list[str] | None) -> None:
    if names is None or in_config is None or names == in_config:
        return
    raise InputError(
        f"label names or their order differ between the config and the label dataset\n"
        f"     config:        {listed(in_config, names)}\n     label dataset: {listed(names, in_config)}",
        where=str(folder),
        hint="leave data.label_names out, or name the classes as the label dataset does",
    )
