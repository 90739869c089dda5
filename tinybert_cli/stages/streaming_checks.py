"""Where `data.streaming` has an effect: rows that are read once, in their order. Anything else is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def check_training(task: str, data: Settings, training: Settings) -> None:
    """Settings of task-agnostic distillation that need to know all rows."""
    if not data.get("streaming") or task != "language-modeling":
        return
    if training.get("max_steps", -1) < 1:
        raise ConfigError(
            "it is not known how many steps a stream is long",
            key=("training", "max_steps"),
            hint="set training.max_steps: blocks of max_seq_length tokens, divided by the rows of a step",
        )
    for name, unknown in UNKNOWN.items():
        value, others, reason = training.get(name), unknown.accepted, unknown.reason
        if name in training and value not in others:
            raise ConfigError(f"a stream {reason}", key=("training", name), hint=unknown.hint)


@dataclass(frozen=True)
class _Unknown:
    """Values of a training setting that a stream can take, and why no others."""

    accepted: tuple[Any, ...]
    reason: str
    hint: str


UNKNOWN = {
    "num_train_epochs": _Unknown(("auto",), "has no known epochs", "leave it out: training.max_steps is the length"),
    "eval_strategy": _Unknown(("auto", "steps", "no"), "has no known epochs", "steps, with training.eval_steps; or no"),
    "per_device_train_batch_tokens": _Unknown(
        (None,), "has blocks of equal length", "set training.per_device_train_batch_size"
    ),
    "dataloader_num_workers": _Unknown((0,), "is read by the process that trains", "leave it out"),
}


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
