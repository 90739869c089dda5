"""What is compared of the answers of two models, by what their numbers are: one class, several classes, or a value.

Shapes: A answers (rows, or words), C classes. Every loss is a mean over the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import NO_LABEL, Batch, ModelOutputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = lazy_import("torch"), lazy_import("torch.nn.functional")

Temperature = Annotated[float, Field(gt=0, description="Logits are divided by it before they are compared.")]
Smoothing = Annotated[float, Field(ge=0, lt=1, description="Share of the target spread evenly over all classes.")]
ClassWeights = Annotated[
    Literal["none", "balanced"],
    Field(description="balanced: rare classes weigh more, each rows / (classes x its rows)."),
]


def soft_labels(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """Cross-entropy between the teacher's and the student's distributions, both softened by `temperature`.

    Times T², so that the gradient keeps its size whatever the temperature (Hinton et al. 2015, section 2).
    Unlike `torch.nn.KLDivLoss` it does not divide by the number of classes.
    """
    target = F.softmax(teacher["logits"].float() / temperature, dim=-1)  # (A, C)
    log_student = F.log_softmax(student["logits"].float() / temperature, dim=-1)  # (A, C)
    return -(target * log_student).sum(-1).mean() * temperature**2


def hard_labels(
    student: ModelOutputs,
    teacher: ModelOutputs,
    batch: Batch,
    *,
    label_smoothing: Smoothing = 0.0,
    class_weights: ClassWeights = "none",
) -> Tensor:
    """Cross-entropy with the labels in the data; rows without a label (-100) count for nothing.

    `label_smoothing` spreads that share of the target over all classes (Szegedy et al. 2016, section 7).
    `class_weights: balanced` takes the mean by the weights in the batch, so that rare classes count as much as others.
    """
    labels = batch["labels"]  # (A,)
    values = F.cross_entropy(
        student["logits"].float(), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
    )
    return _mean(values, labels != NO_LABEL, batch, class_weights)


def r_drop(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """Symmetric KL between the logits (A, C) of two passes with different dropout (Wu et al. 2021, equation 2)."""
    log_p, log_q = (F.log_softmax(said["logits"].float(), -1) for said in (first, second))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() / 2


def soft_labels_of_classes(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """Binary cross-entropy between both models' probabilities of every class, softened by `temperature`.

    Mean over the classes; times T², as `soft_labels`.
    """
    target = torch.sigmoid(teacher["logits"].float() / temperature)  # (A, C)
    return F.binary_cross_entropy_with_logits(student["logits"].float() / temperature, target) * temperature**2


def hard_labels_of_classes(
    student: ModelOutputs,
    teacher: ModelOutputs,
    batch: Batch,
    *,
    label_smoothing: Smoothing = 0.0,
    class_weights: ClassWeights = "none",
) -> Tensor:
    """Binary cross-entropy with the labels in the data, 0 or 1 for every class; NaN counts for nothing.

    `label_smoothing` draws the target so far towards 1/2. `class_weights`: as in `hard_labels`, yes against no.
    """
    labels = batch["labels"].float()  # (A, C)
    known = ~labels.isnan()
    target = labels.nan_to_num() * (1 - label_smoothing) + label_smoothing / 2
    values = F.binary_cross_entropy_with_logits(student["logits"].float(), target, reduction="none")
    return _mean(values, known, batch, class_weights)


def r_drop_of_classes(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """`r_drop` of logits that each say yes or no (A, C); mean over the classes."""
    ours, theirs = first["logits"].float(), second["logits"].float()
    difference: Tensor = (torch.sigmoid(ours) - torch.sigmoid(theirs)) * (ours - theirs)
    return difference.mean() / 2


def soft_labels_of_value(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Squared error to the teacher's value (A, 1). There is no distribution, so there is no temperature."""
    return F.mse_loss(student["logits"].float(), teacher["logits"].float())


def hard_labels_of_value(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Squared error to the value in the data (A,); NaN counts for nothing."""
    labels = batch["labels"].float()
    known = ~labels.isnan()
    errors = (student["logits"].float().squeeze(-1) - labels.nan_to_num()).square()
    mean: Tensor = (errors * known).sum() / known.sum().clamp(min=1)
    return mean


def r_drop_of_value(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """Squared difference of the values (A, 1) of two passes with different dropout."""
    return F.mse_loss(first["logits"].float(), second["logits"].float())


def soft_labels_of_span(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: Temperature = 2.0
) -> Tensor:
    """`soft_labels` over the places of a window (A, 2): the mean of that for the begin and that for the end."""
    target = _over_window(teacher["logits"].float() / temperature, batch).exp()
    return (
        -(target * _over_window(student["logits"].float() / temperature, batch)).sum() / _ends(batch) * temperature**2
    )


def hard_labels_of_span(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, label_smoothing: Smoothing = 0.0
) -> Tensor:
    """Cross-entropy with where the answer begins and ends (A, 2); a window without it counts for nothing.

    `label_smoothing` spreads that share of the target over all places of the window.
    """
    labels = batch["labels"].float().nan_to_num()
    log_student = _over_window(student["logits"].float(), batch)
    hard = -(labels * log_student).sum()
    if label_smoothing:
        even = _over_window(torch.zeros_like(log_student), batch).exp() * _sum_over_window(labels, batch)
        hard = (1 - label_smoothing) * hard - label_smoothing * (even * log_student).sum()
    return hard / labels.sum().clamp(min=1)


def r_drop_of_span(first: ModelOutputs, second: ModelOutputs, batch: Batch) -> Tensor:
    """`r_drop` over the places of a window, for the begin and for the end (A, 2); the mean of both."""
    log_p, log_q = (_over_window(said["logits"].float(), batch) for said in (first, second))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / _ends(batch) / 2


def _mean(values: Tensor, known: Tensor, batch: Batch, class_weights: ClassWeights) -> Tensor:
    """The mean of what is known, each by its weight in the batch if they are balanced; 0 if nothing is."""
    weights = batch["label_weights"] * known if class_weights == "balanced" else known.to(values.dtype)
    total = weights.sum()
    mean: Tensor = (values * weights).sum() / torch.where(total > 0, total, 1)
    return mean


def _over_window(values: Tensor, batch: Batch) -> Tensor:
    """Log-softmax of (A, 2) over the places that stand in the same window, in either column."""
    windows, length = batch["attention_mask"].shape
    spread = values.new_full((windows * length, 2), -torch.inf).scatter(0, batch["positions"], values)
    return spread.view(windows, length, 2).log_softmax(1).view(-1, 2).gather(0, batch["positions"])


def _sum_over_window(values: Tensor, batch: Batch) -> Tensor:
    """For each of (A, 2) the sum of those that stand in the same window."""
    windows, length = batch["attention_mask"].shape
    window = batch["positions"] // length
    return values.new_zeros(windows, 2).scatter_add(0, window, values).gather(0, window)


def _ends(batch: Batch) -> int:
    """Begins and ends to be found: two in every window that has places."""
    windows = batch["positions"][:, 0] // batch["attention_mask"].shape[1]
    return 2 * int((windows.bincount() > 0).sum())
