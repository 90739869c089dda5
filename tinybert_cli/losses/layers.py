"""What is compared inside two models: layers, token by token.

Shapes: B batch, T tokens, H width, N heads, D dimensions of one head, L compared layers. Every loss is a mean over the
tokens that are no padding, or over texts, so that padding and batch size change no scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tinybert_cli.errors import ConfigError
from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import Batch, ModelOutputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = lazy_import("torch"), lazy_import("torch.nn.functional")

RelationHeads = Annotated[
    int, Field(ge=1, description="Parts into which the heads of each model are split; must divide both widths.")
]


def hidden_states(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of what leaves each compared layer, the layers summed (Jiao et al. 2020, equation 8)."""
    pairs = zip(student["hidden_states"], teacher["hidden_states"], strict=True)
    return torch.stack([_token_mean(_squared_error(ours, theirs), batch) for ours, theirs in pairs]).sum()


def embeddings(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of what enters the first layer (Jiao et al. 2020, equation 9)."""
    return _token_mean(_squared_error(student["embeddings"], teacher["embeddings"]), batch)


def attentions(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Mean squared error of the raw attention scores QK^T / sqrt(D), before softmax (Jiao et al. 2020, equation 7).

    Over the pairs of tokens of which neither is padding and over the heads, of which both models must have as many;
    the layers summed.
    """
    mask = batch["attention_mask"].bool()
    pair = (mask[:, None, :, None] & mask[:, None, None, :]).float()  # (B, 1, T, T)
    total = pair.new_zeros(())
    heads, teacher_heads = (said["scores"][0].shape[1] for said in (student, teacher))
    if heads != teacher_heads:
        raise ConfigError(
            f"the student has {heads} attention heads, its teacher {teacher_heads}: they cannot be compared one by one",
            key=("losses", "attentions"),
            hint="take the loss `relations` instead, or as many heads",
        )
    for ours, theirs in zip(student["scores"], teacher["scores"], strict=True):  # (B, N, T, T)
        difference = ours.float() - theirs.float()
        total = total + (difference.square() * pair).sum() / (pair.sum() * heads)
    return total


def relations(
    student: ModelOutputs, teacher: ModelOutputs, batch: Batch, *, relation_heads: RelationHeads = 12
) -> Tensor:
    """KL of the relations QQ^T, KK^T and VV^T of the last compared layer (Wang et al. 2021, arXiv 2012.15828, eq. 3-5).

    The heads of each model are joined and split again into `relation_heads`, so both may have any number of heads and
    any width that it divides. Mean over the tokens that look, sum over those looked at, the three relations summed.
    """
    mask = batch["attention_mask"]
    total = torch.zeros((), device=mask.device)
    for name in ("queries", "keys", "values"):
        ours = _log_relations(student[name][-1], mask, relation_heads)  # (B, R, T, T)
        theirs = _log_relations(teacher[name][-1], mask, relation_heads)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)  # (B, T)
        total = total + _token_mean(divergence, batch)
    return total


def cosine(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """1 - cos of what leaves the last compared layer (Sanh et al. 2019, arXiv 1910.01108, section 3)."""
    ours, theirs = student["hidden_states"][-1].float(), teacher["hidden_states"][-1].float()
    return _token_mean(1 - F.cosine_similarity(ours, theirs, dim=-1), batch)


def pooled(student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
    """Squared distance of the normalised [CLS] states, layers summed (Sun et al. 2019, arXiv 1908.09355, eq. 7)."""
    pairs = zip(student["hidden_states"], teacher["hidden_states"], strict=True)
    distances = [F.normalize(s[:, 0].float(), dim=-1) - F.normalize(t[:, 0].float(), dim=-1) for s, t in pairs]
    return torch.stack([distance.square().sum(-1).mean() for distance in distances]).sum()


def _squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, T): of each token, the mean over the width."""
    return (ours.float() - theirs.float()).square().mean(-1)


def _token_mean(values: Tensor, batch: Batch) -> Tensor:
    """The mean of (B, T) over the tokens that are no padding."""
    mask = batch["attention_mask"].to(values.dtype)
    return (values * mask).sum() / mask.sum()


def _log_relations(projected: Tensor, mask: Tensor, heads: int) -> Tensor:
    """(B, R, T, T): of each token the log-distribution over the tokens that are no padding."""
    batch, has, tokens, size = projected.shape
    if has * size % heads:
        raise ConfigError(
            f"a width of {has * size} cannot be shared by {heads} relation heads",
            key=("losses", "relations", "relation_heads"),
            hint="it must divide the width of both models",
        )
    split = projected.float().transpose(1, 2).reshape(batch, tokens, heads, -1).transpose(1, 2)
    scores = split @ split.mT / split.shape[-1] ** 0.5
    return F.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, -1e4), dim=-1)
