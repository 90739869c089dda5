"""A last layer that computes the [CLS] token only: the head of a sequence classifier reads no other token.

The other tokens still provide keys and values for the attention of [CLS], but have no queries and skip the feed-forward
network. The logits are equal up to rounding, and a model of L layers saves most of the cost of one layer;
benchmarks/last_layer.py measures it.

Shapes: B batch, T tokens, H hidden size, A attention heads, D head dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.families import FAMILIES, Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compute_cls_only(model: PreTrainedModel) -> PreTrainedModel:
    """Patch the model so that its last layer returns (B, 1, H); weights, names and saved files do not change.

    A model with another head, of a family without `one_token`, or with causal attention is returned unchanged.
    """
    family = FAMILIES.get(str(model.config.model_type))
    has_head = type(model).__name__.endswith("ForSequenceClassification")
    is_causal = model.config.to_dict().get("is_decoder", False)
    if family is not None and family.one_token and has_head and not is_causal:
        layers: Any = model.base_model.get_submodule(family.layers)
        _ClsOnlyForward(layers[-1], family, int(model.config.num_attention_heads))
    return model


def compute_all_tokens(model: PreTrainedModel) -> None:
    """Undo `compute_cls_only`: the last layer returns (B, T, H) again."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _ClsOnlyForward):
            module.forward.attention.__dict__.pop("forward")
            module.__dict__.pop("forward")


class _ClsOnlyForward:
    """Replaces `forward` of a layer and of its attention. An object, not a closure: a deep copy has its own modules."""

    def __init__(self, layer: Any, family: Family, heads: int) -> None:
        path, _, _ = family.query.rpartition(".")
        self.layer, self.heads = layer, heads
        self.attention = layer.get_submodule(path)
        self.query, self.key, self.value = (
            layer.get_submodule(name) for name in (family.query, family.key, family.value)
        )
        self.output = layer.get_submodule(family.output) if family.output.startswith(f"{path}.") else None
        self.hidden_states: Tensor | None = None
        layer.forward, self.attention.forward = self, self.attend

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward, (B, T, H) → (B, 1, H); only the first row of the mask (B, 1, T, T) is used."""
        self.hidden_states = hidden_states
        try:
            cls_mask = None if attention_mask is None else attention_mask[:, :, :1]
            return type(self.layer).forward(self.layer, hidden_states[:, :1], cls_mask, *args, **kwargs)
        finally:
            self.hidden_states = None

    def attend(self, cls_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """Softmax attention of the [CLS] token (B, 1, H) over all tokens (B, T, H)."""
        assert self.hidden_states is not None
        queries, keys, values = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, A·D) → (B, A, T, D)
            for projected in (self.query(cls_states), self.key(self.hidden_states), self.value(self.hidden_states))
        )
        context = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attention_mask, dropout_p=self.attention.dropout.p if self.layer.training else 0.0
        )
        context = context.transpose(1, 2).flatten(2)  # (B, 1, A·D)
        return (context if self.output is None else self.output(context)), None
