"""What the mean of a loss is over: the denominators.

The sums of several batches over the sum of their denominators are the loss of all their rows, however these are split
into batches, accumulated batches or processes. Every function takes a batch and the options of the loss.

Shapes: B batch, T tokens, P predictions, C numbers of one prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import NO_LABEL, Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


def windows(batch: Batch, **options: Any) -> Tensor:
    """The windows; in most tasks one per row."""
    return torch.tensor(len(batch["attention_mask"]))


def tokens(batch: Batch, **options: Any) -> Tensor:
    """The tokens that are not padding."""
    return batch["attention_mask"].sum()


def target_tokens(batch: Batch, **options: Any) -> Tensor:
    """The tokens of target texts that are not padding."""
    return batch["decoder_attention_mask"].sum()


def known_target_tokens(batch: Batch, **options: Any) -> Tensor:
    """The tokens of target texts with a distribution of the teacher."""
    return batch["teacher_known"].sum()


def token_pairs(batch: Batch, **options: Any) -> Tensor:
    """The pairs of tokens of one window, neither of which is padding."""
    return batch["attention_mask"].sum(1).square().sum()


def predictions(batch: Batch, **options: Any) -> Tensor:
    """The predictions: one per window, or one per position."""
    return torch.tensor(len(batch["positions"] if "positions" in batch else batch["attention_mask"]))


def labels(batch: Batch, *, class_weights: str = "none", **options: Any) -> Tensor:
    """The labels that are not missing; with balanced classes the sum of their weights."""
    known = is_known(batch["labels"])
    return (batch["label_weights"] * known).sum() if class_weights == "balanced" else known.sum()


def span_labels(batch: Batch, **options: Any) -> Tensor:
    """The labelled starts and ends of answers."""
    return batch["labels"].nan_to_num().sum()


def is_known(labels: Tensor) -> Tensor:
    """Which labels are not missing."""
    return ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
