"""The tasks, by the name that a config gives them."""

from collections.abc import Mapping
from typing import Any

from tinybert_cli.errors import ConfigError, InputError, look_up
from tinybert_cli.tasks.base import Exam, PredictionTask, Task, Window, interval, missing, without_gold
from tinybert_cli.tasks.language_modeling import LanguageModeling
from tinybert_cli.tasks.multi_label import MultiLabelClassification
from tinybert_cli.tasks.question_answering import QuestionAnswering
from tinybert_cli.tasks.regression import Regression
from tinybert_cli.tasks.text_classification import TextClassification
from tinybert_cli.tasks.token_classification import TokenClassification

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "multi-label-classification": MultiLabelClassification(),
    "regression": Regression(),
    "token-classification": TokenClassification(),
    "question-answering": QuestionAnswering(),
    "language-modeling": LanguageModeling(),
}


def find(name: str) -> Task:
    """The task of that name, or a ConfigError that lists them."""
    return look_up(TASKS, name, "task")


def find_prediction_task(name: str) -> PredictionTask:
    """The same for the stages that ask models for answers; a ConfigError if this task has none."""
    task = find(name)
    if isinstance(task, PredictionTask):
        return task
    others = ", ".join(other for other, known in TASKS.items() if isinstance(known, PredictionTask))
    raise ConfigError(
        f"'{name}' is a task for `tinybert distill` alone: the general student that it makes has no answers yet",
        hint=f"name the task that the student is for, one of: {others}; its folder is the model to start from",
    )


def of_model(config: Mapping[str, Any]) -> PredictionTask:
    """The task that a model with this config.json was made for; InputError if its head answers none of ours."""
    made_as = (config.get("architectures") or ["a model of no kind"])[0]
    for task in TASKS.values():
        ending = "For" + task.head.title().replace("-", "")
        problem = config.get("problem_type") or task.problem  # one that does not say is taken for the first that fits
        if isinstance(task, PredictionTask) and made_as.endswith(ending) and problem == task.problem:
            return task
    raise InputError(f"{made_as} gives no answers that can be told", hint="fine-tune it first: tinybert finetune")


__all__ = [
    "TASKS",
    "Exam",
    "PredictionTask",
    "Task",
    "Window",
    "find",
    "find_prediction_task",
    "interval",
    "missing",
    "of_model",
    "without_gold",
]
