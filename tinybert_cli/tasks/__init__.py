"""The tasks, by the name that a config gives them."""

from tinybert_cli.errors import ConfigError, look_up
from tinybert_cli.tasks.base import Answering, Encoded, Task, interval
from tinybert_cli.tasks.language_modeling import LanguageModeling
from tinybert_cli.tasks.text_classification import TextClassification

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "language-modeling": LanguageModeling(),
}


def find(name: str) -> Task:
    """The task of that name, or a ConfigError that lists them."""
    return look_up(TASKS, name, "task")


def find_answering(name: str) -> Answering:
    """The same for the stages that ask models for answers; a ConfigError if this task has none."""
    task = find(name)
    if isinstance(task, Answering):
        return task
    others = ", ".join(other for other, known in TASKS.items() if isinstance(known, Answering))
    raise ConfigError(
        f"'{name}' is a task for `tinybert distill` alone: the general student that it makes has no answers yet",
        hint=f"name the task that the student is for, one of: {others}; its folder is the model to start from",
    )


__all__ = ["TASKS", "Answering", "Encoded", "Task", "find", "find_answering", "interval"]
