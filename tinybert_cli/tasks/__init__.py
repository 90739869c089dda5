"""The tasks, by the name that a config gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError, look_up
from tinybert_cli.tasks.base import GenerationTask, PredictionTask, Task, missing, no_labels_error
from tinybert_cli.tasks.encoding import text_columns_of
from tinybert_cli.tasks.label_names import label_indices
from tinybert_cli.tasks.language_modeling import LanguageModeling
from tinybert_cli.tasks.model_inputs import (
    LANGUAGES,
    MAX_LENGTHS,
    SEARCH,
    TEXT_COLUMNS,
    ModelInputs,
    cuts_long_texts,
    in_words,
    language_differences,
    language_warnings,
    read_model_inputs,
    recorded_languages,
    recorded_settings,
)
from tinybert_cli.tasks.multi_label import MultiLabelClassification
from tinybert_cli.tasks.onnx_examples import HEAD
from tinybert_cli.tasks.question_answering import QuestionAnswering
from tinybert_cli.tasks.regression import Regression
from tinybert_cli.tasks.text_classification import TextClassification
from tinybert_cli.tasks.token_classification import GivenWords, TokenClassification, words_of
from tinybert_cli.tasks.tokenizer_file import TokenizerFile
from tinybert_cli.tasks.translation import Translation, search_of

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "multi-label-classification": MultiLabelClassification(),
    "regression": Regression(),
    "token-classification": TokenClassification(),
    "question-answering": QuestionAnswering(),
    "translation": Translation(),
    "language-modeling": LanguageModeling(),
}

CONFIG_KEY = "tinybert_task"  # the task of a model, in its config.json


def find(name: str) -> Task:
    """The task of that name, or a ConfigError that lists them."""
    return look_up(TASKS, name, "task")


def find_scored_task(name: str) -> PredictionTask | GenerationTask:
    """The task of that name for stages that need predictions; a ConfigError if its models make none."""
    task = find(name)
    if isinstance(task, PredictionTask | GenerationTask):
        return task
    others = ", ".join(other for other, known in TASKS.items() if isinstance(known, PredictionTask | GenerationTask))
    raise ConfigError(
        f"'{name}' is a task for `tinybert distill` only: a task-agnostic student makes no predictions",
        hint=f"name the task of the student, one of: {others}; the folder of the task-agnostic student is the model to "
        "start from",
    )


def find_prediction_task(name: str) -> PredictionTask:
    """The task of that name whose models compute logits for each row."""
    task = find_scored_task(name)
    if isinstance(task, PredictionTask):
        return task
    raise ConfigError(f"models of '{name}' generate text; they compute no logits for a row")


def of_model(config: Mapping[str, Any]) -> PredictionTask:
    """The task of a model, from its config.json: of the tasks with its head, the one that CONFIG_KEY names.

    Models of other tools have no CONFIG_KEY; their task is the first one with this head and problem type. Without a
    problem type a head with one output is for a number, as transformers reads it.

    Raises:
        InputError: the model's head belongs to none of the tasks, or CONFIG_KEY names a task of another version.
    """
    own = config.get(CONFIG_KEY)
    if own is not None and (not isinstance(own, str) or own not in TASKS):
        raise InputError(
            f"the model is for the task {own!r}, which this version of tinybert does not know",
            hint="install the package that adds this task, or a newer tinybert",
        )
    architecture = (config.get("architectures") or ["a model without a head"])[0]
    one_output = len(config.get("id2label") or ("LABEL_0", "LABEL_1")) == 1
    known = config.get("problem_type") or (Regression.problem if one_output else None)
    matching: dict[str, PredictionTask] = {}
    for name, task in TASKS.items():
        ending = "For" + task.head.title().replace("-", "")
        fits = task.problem is None or known in (None, task.problem)
        if isinstance(task, PredictionTask) and architecture.endswith(ending) and fits:
            matching[name] = task
    if matching:
        return matching.get(str(own), next(iter(matching.values())))
    raise InputError(
        f"{architecture} has no supported task head, so it cannot be used for prediction",
        hint="fine-tune it first: tinybert finetune",
    )


def onnx_example(task: PredictionTask, data: Data, names: Sequence[str], file: str) -> str:
    """Python code that predicts with an ONNX export, whose model is this file in the folder of the code."""
    head, own = HEAD.format(file=file), task.onnx_example(data, names)
    imports, separator, rest = own.rpartition("\n\n") if own.startswith("import ") else ("", "", own)
    return head.replace("import json\n", f"import json\n{imports}\n", 1) + rest if separator else head + own


def unnamed_classes(task: PredictionTask, model: str, names: Sequence[str], *, named: bool) -> list[str]:
    """A statement for the plan if neither the model nor the config names the classes."""
    if named or task.output_type not in ("class", "classes"):
        return []
    return [f"'{model}' does not name its classes: the labels {names[0]} to {names[-1]} are its outputs in their order"]


__all__ = [
    "CONFIG_KEY",
    "LANGUAGES",
    "MAX_LENGTHS",
    "SEARCH",
    "TASKS",
    "TEXT_COLUMNS",
    "GenerationTask",
    "GivenWords",
    "ModelInputs",
    "PredictionTask",
    "Task",
    "TokenizerFile",
    "Translation",
    "cuts_long_texts",
    "find",
    "find_prediction_task",
    "find_scored_task",
    "in_words",
    "label_indices",
    "language_differences",
    "language_warnings",
    "missing",
    "no_labels_error",
    "of_model",
    "onnx_example",
    "read_model_inputs",
    "recorded_languages",
    "recorded_settings",
    "search_of",
    "text_columns_of",
    "unnamed_classes",
    "words_of",
]
