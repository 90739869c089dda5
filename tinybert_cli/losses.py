"""What a student is told about its mistakes: pure functions that compare it with the teacher.

Shapes: B batch, C classes. Every loss is a mean over the rows, so that padding and batch size change no scale.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from tinybert_cli.errors import ConfigError, did_you_mean, look_up

Answers = Mapping[str, Tensor]  # what a model says: "logits" (B, C)
Batch = Mapping[str, Tensor]  # what it was shown: "labels" (B,), -100 where a row has none
Loss = Callable[..., Tensor]

NO_LABEL = -100


def soft_labels(
    student: Answers, teacher: Answers, batch: Batch, *, temperature: Annotated[float, Field(gt=0)] = 2.0
) -> Tensor:
    """Cross-entropy between the teacher's and the student's distributions, both softened by `temperature`.

    Times T², so that the gradient keeps its size whatever the temperature (Hinton et al. 2015, section 2).
    Unlike `torch.nn.KLDivLoss` it does not divide by the number of classes.
    """
    target = F.softmax(teacher["logits"].float() / temperature, dim=-1)  # (B, C)
    log_student = F.log_softmax(student["logits"].float() / temperature, dim=-1)  # (B, C)
    return -(target * log_student).sum(-1).mean() * temperature**2


def hard_labels(
    student: Answers, teacher: Answers, batch: Batch, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy with the labels in the data; rows without a label (-100) count for nothing.

    `label_smoothing` spreads that share of the target over all classes (Szegedy et al. 2016, section 7).
    """
    labels = batch["labels"]  # (B,)
    summed = F.cross_entropy(
        student["logits"].float(), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="sum"
    )
    return summed / (labels != NO_LABEL).sum().clamp(min=1)


def r_drop(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric KL between the logits (B, C) of two passes with different dropout (Wu et al. 2021, equation 2)."""
    log_p, log_q = F.log_softmax(first.float(), -1), F.log_softmax(second.float(), -1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() / 2


def combine(losses: Mapping[str, float | Mapping[str, Any]]) -> Callable[[Answers, Answers, Batch], dict[str, Tensor]]:
    """The weighted sum of the named losses, as `loss`, and each part unweighted under its own name.

    Raises:
        ConfigError: an unknown loss or option, a value of the wrong type or out of bounds, or all weights 0.
    """
    parts: dict[str, tuple[float, Callable[[Answers, Answers, Batch], Tensor]]] = {}
    for name, setting in losses.items():
        loss = look_up(LOSSES, name, "loss", key=(name,))
        options = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
        weight = _checked(name, "weight", options.pop("weight", 1.0), Annotated[float, Field(ge=0)])
        known = options_of(loss)
        for option, value in options.items():
            if option not in known:
                hint = did_you_mean(option, ["weight", *known])
                raise ConfigError(f"unknown option '{option}' of the loss `{name}`", key=(name, option), hint=hint)
            _checked(name, option, value, known[option])
        if weight > 0:
            parts[name] = weight, _with_options(loss, options)
    if not parts:
        raise ConfigError("every loss has the weight 0: there is nothing to learn", hint="soft_labels: 1.0")

    def loss_of(student: Answers, teacher: Answers, batch: Batch) -> dict[str, Tensor]:
        values = {name: loss(student, teacher, batch) for name, (_, loss) in parts.items()}
        total = torch.stack([parts[name][0] * value for name, value in values.items()]).sum()
        return {"loss": total, **values}

    return loss_of


def options_of(loss: Loss) -> dict[str, Any]:
    """The options of a loss, its keyword-only parameters, with their types and bounds."""
    hints = get_type_hints(loss, include_extras=True)
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def _with_options(loss: Loss, options: Mapping[str, Any]) -> Callable[[Answers, Answers, Batch], Tensor]:
    return lambda student, teacher, batch: loss(student, teacher, batch, **options)


def _checked(loss: str, option: str, value: object, kind: Any) -> Any:
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input ").replace("valid ", "")
        raise ConfigError(f"`{option}` of the loss `{loss}` {expected}, found {value!r}", key=(loss, option)) from error


LOSSES: dict[str, Loss] = {
    "soft_labels": soft_labels,
    "hard_labels": hard_labels,
}
