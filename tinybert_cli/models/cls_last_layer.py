"""A last layer that works for the first token alone: heads for whole texts read nothing else of it.

The other tokens are still read there, as keys and values, but they ask nothing and pass no feed-forward network. The
logits are the same but for rounding, and a model of N layers saves most of one; benchmarks/last_layer.py says how much.

Shapes: B batch, T tokens, H width, A heads, D dimensions of one head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.families import FAMILIES, Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compute_cls_only(model: PreTrainedModel) -> PreTrainedModel:
    """The model, whose last layer from now on returns (B, 1, H); weights, names and what is saved do not change.

    A model with another head, or of a family whose layers are not known here, stays as it is.
    """
    family = FAMILIES.get(str(model.config.model_type))
    if family is not None and type(model).__name__.endswith("ForSequenceClassification"):
        layers: Any = model.base_model.get_submodule(family.layers)
        _FirstToken(layers[-1], family, int(model.config.num_attention_heads))
    return model


def compute_all_tokens(model: PreTrainedModel) -> None:
    """Undoes `compute_cls_only`: the last layer returns (B, T, H) again."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _FirstToken):
            module.forward.attention.__dict__.pop("forward")
            module.__dict__.pop("forward")


class _FirstToken:
    """The `forward` of a layer, and of the attention in it. No closure, so that a copied model has its own."""

    def __init__(self, layer: Any, family: Family, heads: int) -> None:
        path, _, _ = family.query.rpartition(".")
        self.layer, self.heads = layer, heads
        self.attention = layer.get_submodule(path)
        self.query, self.key, self.value = (
            layer.get_submodule(name) for name in (family.query, family.key, family.value)
        )
        self.output = layer.get_submodule(family.output) if family.output.startswith(f"{path}.") else None
        self.states: Tensor | None = None
        layer.forward, self.attention.forward = self, self.attend

    def __call__(self, states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward, (B, T, H) → (B, 1, H); the mask is (B, 1, T, T), and only its first row is asked."""
        self.states = states
        try:
            first = None if attention_mask is None else attention_mask[:, :, :1]
            return type(self.layer).forward(self.layer, states[:, :1], first, *args, **kwargs)
        finally:
            self.states = None

    def attend(self, asking: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """Softmax attention of the asking token (B, 1, H) to all (B, T, H)."""
        assert self.states is not None
        queries, keys, values = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, A·D) → (B, A, T, D)
            for projected in (self.query(asking), self.key(self.states), self.value(self.states))
        )
        context = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attention_mask, dropout_p=self.attention.dropout.p if self.layer.training else 0.0
        )
        context = context.transpose(1, 2).flatten(2)  # (B, 1, A·D)
        return (context if self.output is None else self.output(context)), None
