"""Where `data.streaming` has an effect: rows that are read once, in their order. Anything else is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinybert_cli.errors import ConfigError
from tinybert_cli.stages.answer_checks import answers_of

Settings = Mapping[str, Any]

KEY = ("data", "streaming")
ELSEWHERE = "set it in the config of that stage, not in a file that all stages extend"


def check_stage(command: str, task: str, data: Settings) -> None:
    """Only stages that read each row once can take a stream."""
    if not data.get("streaming") or command == "gen-soft-labels":
        return
    if command == "distill":
        if task == "language-modeling":
            return
        raise ConfigError(
            "the training rows of distill are those of its label dataset, which is read from disk",
            key=KEY,
            hint=f"leave it out; gen-soft-labels reads a stream, and distill with task: language-modeling: {ELSEWHERE}",
        )
    raise ConfigError(
        f"{command} reads its rows more than once, so that they cannot be a stream",
        key=KEY,
        hint=f"leave it out; gen-soft-labels reads a stream, and distill with task: language-modeling: {ELSEWHERE}",
    )


def check_labels(data: Settings, teacher: Any, augment: object) -> None:
    """What gen-soft-labels cannot do before it knows all rows."""
    if not data.get("streaming"):
        return
    if augment is not None:
        raise ConfigError(
            "augmented examples are compared with all training rows, which are not known while a stream is read",
            key=("augment",),
            hint="leave augment or data.streaming out",
        )
    for key, _ in answers_of(teacher):
        raise ConfigError(
            "answers are joined to all rows, which are not known while a stream is read",
            key=key,
            hint="leave data.streaming out; or take a model as the teacher",
        )
