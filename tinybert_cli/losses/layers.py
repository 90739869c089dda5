"""Losses on layers: hidden states, embeddings, attention scores and Q/K/V relations.

Shapes: B batch, T tokens, H hidden size, A heads, D head dimension, R relation heads. Every loss is a mean over the
tokens that are not padding, or over texts, so that padding and batch size do not change its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tinybert_cli.errors import ConfigError
from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import NOT_ATTENDED, Batch, ModelOutputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = lazy_import("torch"), lazy_import("torch.nn.functional")

RelationHeads = Annotated[
    int, Field(ge=1, description="Relation heads that Q, K and V are split into; must divide both hidden sizes.")
]


def hidden_states(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of the hidden states after each mapped layer, summed over layers (Jiao et al. 2020, eq. 8)."""
    return _layer_errors(student["hidden_states"], teacher["hidden_states"], batch["attention_mask"])


def encoder_hidden_states(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """`hidden_states` of the encoder of a translation model."""
    name = "encoder_hidden_states"
    return _layer_errors(student[name], teacher[name], batch["attention_mask"])


def decoder_hidden_states(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """`hidden_states` of the decoder of a translation model, which reads the same target tokens in both models."""
    name = "decoder_hidden_states"
    return _layer_errors(student[name], teacher[name], batch["decoder_attention_mask"])


def embeddings(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of the embedding output, the input of the first layer (Jiao et al. 2020, eq. 9)."""
    return _token_mean(_squared_error(student["embeddings"], teacher["embeddings"]), batch["attention_mask"])


def attentions(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of the attention scores QK^T / sqrt(D) before softmax (Jiao et al. 2020, eq. 7).

    Mean over heads and over pairs of tokens neither of which is padding; sum over layers. The scores include what a
    family adds for positions. A pair that a local layer of one of the models does not attend to counts as equal.

    Raises:
        ConfigError: student and teacher have different numbers of heads.
    """
    mask = batch["attention_mask"].bool()
    pair_mask = (mask[:, None, :, None] & mask[:, None, None, :]).float()  # (B, 1, T, T)
    total = pair_mask.new_zeros(())
    heads, teacher_heads = (outputs["scores"][0].shape[1] for outputs in (student, teacher))
    if heads != teacher_heads:
        raise ConfigError(
            f"`attentions` needs equal numbers of heads: the student has {heads}, the teacher {teacher_heads}",
            key=("losses", "attentions"),
            hint="use the loss `relations` instead, or give the student as many heads",
        )
    for student_scores, teacher_scores in zip(student["scores"], teacher["scores"], strict=True):  # (B, A, T, T)
        is_far = (student_scores <= NOT_ATTENDED) | (teacher_scores <= NOT_ATTENDED)
        difference = (student_scores.float() - teacher_scores.float()).masked_fill(is_far, 0.0)
        total = total + (difference.square() * pair_mask).sum() / (pair_mask.sum() * heads)
    return total


def relations(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, relation_heads: RelationHeads = 12
) -> Tensor:
    """KL of the relations QQ^T, KK^T and VV^T of the last mapped layer (MiniLMv2: Wang et al. 2021, eq. 3-5).

    arXiv 2012.15828. The heads of each model are concatenated and split into `relation_heads`, so student and teacher
    may have different numbers of heads and different hidden sizes. Each relation is a softmax over the key tokens; the
    KL is averaged over query tokens and relation heads, and summed over the three relations.

    Raises:
        ConfigError: `relation_heads` does not divide a hidden size.
    """
    mask = batch["attention_mask"]
    total = torch.zeros((), device=mask.device)
    for name in ("queries", "keys", "values"):
        log_student = _log_relations(student[name][-1], mask, relation_heads)  # (B, R, T, T)
        log_teacher = _log_relations(teacher[name][-1], mask, relation_heads)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean(1)  # (B, T)
        total = total + _token_mean(divergence, mask)
    return total


def cosine(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """1 - cosine similarity of the hidden states after the last mapped layer (Sanh et al. 2019, arXiv 1910.01108)."""
    similarity = F.cosine_similarity(student["hidden_states"][-1].float(), teacher["hidden_states"][-1].float(), dim=-1)
    return _token_mean(1 - similarity, batch["attention_mask"])


def pooled(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Squared distance of the normalised [CLS] states, sum over layers (Sun et al. 2019, arXiv 1908.09355, eq. 7)."""
    pairs = zip(student["hidden_states"], teacher["hidden_states"], strict=True)
    distances = [F.normalize(s[:, 0].float(), dim=-1) - F.normalize(t[:, 0].float(), dim=-1) for s, t in pairs]
    return torch.stack([distance.square().sum(-1).mean() for distance in distances]).sum()


def _layer_errors(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared error of each layer (B, T, H), summed over layers."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([_token_mean(_squared_error(s, t), mask) for s, t in pairs]).sum()


def _squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of each token (B, T), over the hidden size."""
    return (student.float() - teacher.float()).square().mean(-1)


def _token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` (B, T) over the tokens that are not padding."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum()


def _log_relations(projected: Tensor, mask: Tensor, relation_heads: int) -> Tensor:
    """Log-softmax of the relations (B, R, T, T) of queries, keys or values (B, A, T, D); padding has probability 0."""
    batch_size, heads, tokens, head_size = projected.shape
    if heads * head_size % relation_heads:
        raise ConfigError(
            f"hidden size {heads * head_size} is not divisible by relation_heads ({relation_heads})",
            key=("losses", "relations", "relation_heads"),
            hint="it must divide the hidden sizes of both models",
        )
    split = projected.float().transpose(1, 2).reshape(batch_size, tokens, relation_heads, -1).transpose(1, 2)
    scores = split @ split.mT / split.shape[-1] ** 0.5
    return F.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, -1e4), dim=-1)
