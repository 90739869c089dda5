"""Losses of target tokens: cross-entropy with the target text, and word-level distillation.

The latter is the cross-entropy with the K most probable tokens of the teacher, and one class for all others.

Shapes: P target tokens, K stored tokens of each, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.losses.denominators import known_target_tokens
from tinybert_cli.losses.logits import Smoothing, hard_labels
from tinybert_cli.types import Batch, ModelOutputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = lazy_import("torch"), lazy_import("torch.nn.functional")

TEMPERATURES = (1.0, 2.0)  # for which a label dataset has the teacher's normalizers
StoredTemperature = Annotated[
    float,
    Field(ge=1, le=2, multiple_of=1, description="Both models' logits are divided by it before the softmax: 1 or 2."),
]
_SMALLEST = 1e-6  # probability of all other tokens of which the logarithm is taken


def soft_labels_of_tokens(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, temperature: StoredTemperature = 1.0
) -> Tensor:
    """Cross-entropy between the distributions of teacher and student over K + 1 classes, softened by `temperature`.

    The last class is "another token": its probability is what the K tokens leave. With K = V this is `soft_labels`.
    Renormalizing over the K tokens instead would leave the student free everywhere else. Multiplied by T².

    `batch` has "teacher_topk_ids" and "teacher_topk_logprobs" (P, K) at T = 1, "teacher_logsumexp" (P,), the logarithm
    of the sum of p^(1/2) over all tokens, and "teacher_known" (P,): targets of other texts have no distribution.
    """
    log_p = batch["teacher_topk_logprobs"].float() / temperature  # (P, K)
    if temperature != 1.0:
        log_p = log_p - batch["teacher_logsumexp"].float()[:, None]
    log_student = F.log_softmax(student["logits"].float() / temperature, dim=-1)  # (P, V)
    log_q = log_student.gather(-1, batch["teacher_topk_ids"].long())  # (P, K)
    p = log_p.exp()
    values = -(p * log_q).sum(-1)
    if log_q.shape[-1] < log_student.shape[-1]:
        log_q_rest = torch.log1p(-log_q.exp().sum(-1).clamp(max=1 - _SMALLEST))  # (P,)
        values = values - (1 - p.sum(-1)).clamp(min=0) * log_q_rest
    known = batch["teacher_known"]
    mean: Tensor = (values * known).sum() / known_target_tokens(batch).clamp(min=1)
    return mean * temperature**2


def hard_labels_of_tokens(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, label_smoothing: Smoothing = 0.0
) -> Tensor:
    """Cross-entropy with the target tokens; `label_smoothing` spreads that share of the target over all tokens."""
    return hard_labels(student, teacher, batch, label_smoothing=label_smoothing)
