"""The tasks, by the name that a config gives them."""

from tinybert_cli.errors import look_up
from tinybert_cli.tasks.base import Encoded, Task, interval
from tinybert_cli.tasks.text_classification import TextClassification

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
}


def find(name: str) -> Task:
    """The task of that name, or a ConfigError that lists them."""
    return look_up(TASKS, name, "task")


__all__ = ["TASKS", "Encoded", "Task", "find", "interval"]
