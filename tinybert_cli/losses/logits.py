"""Losses on logits: soft labels, hard labels and R-Drop for each output type.

The output type is one class, several classes (multi-label), a span, or a value (regression).
Shapes: P predictions (one per row, or per word), C classes, W windows, T tokens. Every loss is a mean over predictions
or labels, 0 if there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.losses.denominators import is_known, span_labels
from tinybert_cli.types import NO_LABEL, Batch, ModelOutputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = lazy_import("torch"), lazy_import("torch.nn.functional")

Temperature = Annotated[float, Field(gt=0, description="Both models' logits are divided by it before the softmax.")]
Smoothing = Annotated[float, Field(ge=0, lt=1, description="Share of the target spread evenly over all classes.")]
ClassWeights = Annotated[
    Literal["none", "balanced"],
    Field(description="balanced: weight every class by rows / (classes x rows of the class), as scikit-learn does."),
]


def soft_labels(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """Cross-entropy between the teacher's and the student's distributions, both softened by `temperature`.

    Multiplied by T², so that the size of the gradients does not depend on T (Hinton et al. 2015, section 2).
    Unlike `torch.nn.KLDivLoss` with its default reduction, it is not divided by the number of classes.
    """
    target = F.softmax(teacher["logits"].float() / temperature, dim=-1)  # (P, C)
    log_student = F.log_softmax(student["logits"].float() / temperature, dim=-1)  # (P, C)
    return _mean(-(target * log_student).sum(-1)) * temperature**2


def hard_labels(
    student: ModelOutputs,
    teacher: ModelOutputs,
    batch: Batch,
    *,
    label_smoothing: Smoothing = 0.0,
    class_weights: ClassWeights = "none",
) -> Tensor:
    """Cross-entropy with the labels in the data; rows without a label (-100) are ignored.

    `label_smoothing` spreads that share of the target over all classes (Szegedy et al. 2016, section 7).
    `class_weights: balanced` is the mean weighted by "label_weights", so that rare classes count as much as others.
    """
    labels = batch["labels"]  # (P,)
    values = F.cross_entropy(
        student["logits"].float(), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
    )
    return _mean_of_known(values, batch, class_weights)


def r_drop(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """Symmetric KL between the logits (P, C) of two passes with different dropout (Wu et al. 2021, equation 2)."""
    log_p, log_q = (F.log_softmax(outputs["logits"].float(), -1) for outputs in (first, second))
    return _mean(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)) / 2


def soft_labels_of_classes(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """Binary cross-entropy between both models' probabilities of every class, softened by `temperature`.

    Mean over the classes; multiplied by T², as in `soft_labels`.
    """
    target = torch.sigmoid(teacher["logits"].float() / temperature)  # (P, C)
    scaled = student["logits"].float() / temperature
    return _mean(F.binary_cross_entropy_with_logits(scaled, target, reduction="none")) * temperature**2


def hard_labels_of_classes(
    student: ModelOutputs,
    teacher: ModelOutputs,
    batch: Batch,
    *,
    label_smoothing: Smoothing = 0.0,
    class_weights: ClassWeights = "none",
) -> Tensor:
    """Binary cross-entropy with the labels in the data, 0 or 1 for every class; NaN is ignored.

    `label_smoothing` moves the target by that share towards 1/2. `class_weights` as in `hard_labels`, where positives
    and negatives of a class are balanced.
    """
    labels = batch["labels"].float()  # (P, C)
    target = labels.nan_to_num() * (1 - label_smoothing) + label_smoothing / 2
    values = F.binary_cross_entropy_with_logits(student["logits"].float(), target, reduction="none")
    return _mean_of_known(values, batch, class_weights)


def r_drop_of_classes(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """`r_drop` for independent binary logits (P, C); mean over the classes."""
    p, q = first["logits"].float(), second["logits"].float()
    return _mean((torch.sigmoid(p) - torch.sigmoid(q)) * (p - q)) / 2


def soft_labels_of_value(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error to the teacher's value (P, 1). Without a distribution there is no temperature."""
    return _mean((student["logits"].float() - teacher["logits"].float()).square())


def hard_labels_of_value(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error to the value in the data (P,); NaN is ignored."""
    errors = (student["logits"].float().squeeze(-1) - batch["labels"].float().nan_to_num()).square()
    return _mean_of_known(errors, batch, "none")


def r_drop_of_value(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared difference of the values (P, 1) of two passes with different dropout."""
    return _mean((first["logits"].float() - second["logits"].float()).square())


def soft_labels_of_span(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """`soft_labels` over all tokens of a window (P, 2): the mean of the losses for the start and for the end."""
    target = _over_window(teacher["logits"].float() / temperature, batch).exp()
    log_student = _over_window(student["logits"].float() / temperature, batch)
    return -(target * log_student).sum() / (2 * len(batch["attention_mask"])) * temperature**2


def hard_labels_of_span(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, label_smoothing: Smoothing = 0.0
) -> Tensor:
    """Cross-entropy over all tokens of a window with the start and the end of the answer (P, 2); NaN is ignored.

    `label_smoothing` spreads that share of the target over all tokens of the window.
    """
    labels = batch["labels"].float().nan_to_num()
    log_student = _over_window(student["logits"].float(), batch)
    hard = -(labels * log_student).sum()
    if label_smoothing:
        uniform = _over_window(torch.zeros_like(log_student), batch).exp() * _sum_over_window(labels, batch)
        hard = (1 - label_smoothing) * hard - label_smoothing * (uniform * log_student).sum()
    return hard / span_labels(batch).clamp(min=1)


def r_drop_of_span(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """`r_drop` over all tokens of a window (P, 2): the mean of start and end."""
    log_p, log_q = (_over_window(outputs["logits"].float(), batch) for outputs in (first, second))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / (2 * len(batch["attention_mask"])) / 2


def _mean(values: Tensor) -> Tensor:
    """The mean of all values; 0 if there are none."""
    return values.sum() / max(1, values.numel())


def _mean_of_known(values: Tensor, batch: Batch, class_weights: ClassWeights) -> Tensor:
    """The mean of the values with a known label, weighted by "label_weights" if balanced; 0 if there are none."""
    known = is_known(batch["labels"])
    weights = batch["label_weights"] * known if class_weights == "balanced" else known.to(values.dtype)
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)


def _over_window(values: Tensor, batch: Batch) -> Tensor:
    """Log-softmax of (P, 2) over the tokens of the same window, for each of the two columns."""
    windows, length = batch["attention_mask"].shape
    padded = values.new_full((windows * length, 2), -torch.inf)
    padded[batch["positions"]] = values
    return padded.view(windows, length, 2).log_softmax(1).view(-1, 2)[batch["positions"]]


def _sum_over_window(values: Tensor, batch: Batch) -> Tensor:
    """For each value of (P, 2) the sum of the values in the same window."""
    windows, length = batch["attention_mask"].shape
    window = batch["positions"] // length
    return values.new_zeros(windows, 2).index_add(0, window, values)[window]
