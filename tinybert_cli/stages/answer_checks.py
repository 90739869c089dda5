"""Checks of a config whose teacher is a file with answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinybert_cli import tasks
from tinybert_cli.errors import ConfigError
from tinybert_cli.stages import translation_checks

Key = tuple[str | int, ...]


def check_teachers(task: str, teacher: Any) -> None:
    """What a task cannot do with its teachers."""
    translation_checks.check_one_teacher(task, teacher)
    definition = tasks.find(task)
    for key, setting in answers_of(teacher):
        if isinstance(definition, tasks.GenerationTask):
            raise ConfigError(
                "translations of a file are learned directly, without a label dataset",
                key=key,
                hint="add them to the data as a column, name it in data.label_column_name, and run finetune",
            )
        assert isinstance(definition, tasks.PredictionTask)  # the only other kind of this stage
        if setting.get("temperature") == "auto" and definition.output_type != "class":
            raise ConfigError(
                f"`temperature: auto` is for one label of several, which {task} does not have",
                key=(*key, "temperature"),
                hint="leave it out, or set a number",
            )
        if setting.get("temperature", 1.0) != 1.0 and definition.output_type == "value":
            raise ConfigError(
                f"answers of {task} are numbers, which have no confidence",
                key=(*key, "temperature"),
                hint="leave it out",
            )
        if setting.get("no_answer") is not None and definition.output_type != "span":
            raise ConfigError(
                f"`no_answer` has no effect in {task}: it is for question-answering",
                key=(*key, "no_answer"),
                hint="leave it out",
            )
        if setting.get("label_names") is not None and definition.output_type in ("value", "span"):
            raise ConfigError(
                f"`label_names` has no effect in {task}, whose answers are no labels",
                key=(*key, "label_names"),
                hint="leave it out",
            )
        if setting.get("confidence_column_name") is not None and task != "text-classification":
            raise ConfigError(
                f"`confidence_column_name` has no effect in {task}: it is for text-classification",
                key=(*key, "confidence_column_name"),
                hint="leave it out",
            )
        for name in ("answers_file", "text_column_names", "answer_column_name"):
            _check_no_repeats(setting.get(name), (*key, name))
        if setting.get("answers_id_column_name") is not None and setting.get("id_column_name") is None:
            raise ConfigError(
                "`answers_id_column_name` is the name of `id_column_name` in the answers, which is not set",
                key=(*key, "answers_id_column_name"),
                hint="set id_column_name to the column of the data",
            )


def _check_no_repeats(names: Any, key: Key) -> None:
    """A file that is listed twice doubles its votes, and a column hides the one that was meant."""
    repeated = next((name for name in names if names.count(name) > 1), None) if isinstance(names, list) else None
    if repeated is not None:
        raise ConfigError(f"'{repeated}' is named twice", key=key, hint="name each one once")


def check_models_exist(teacher: Any, states: Sequence[str], augment: object) -> None:
    """Layer states and labels of augmented examples come from a model."""
    settings = list(answers_of(teacher))
    teachers = teacher if isinstance(teacher, list) else [teacher]
    if states and settings:
        raise ConfigError(
            "answers have no layers whose states could be stored",
            key=("states",),
            hint="leave states out; for layer losses take one model as the teacher",
        )
    if augment is not None and len(settings) == len(teachers):
        raise ConfigError(
            "`augment` needs a model, which labels the augmented examples: no answer is for them",
            key=("augment",),
            hint="leave augment out; train a model on these labels first, and let it label more text",
        )


def answers_of(teacher: Any) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """The files with answers among the teachers, and the key of each."""
    if isinstance(teacher, Mapping):
        yield ("teacher",), teacher
    elif isinstance(teacher, list):
        yield from ((("teacher", index), one) for index, one in enumerate(teacher) if isinstance(one, Mapping))
