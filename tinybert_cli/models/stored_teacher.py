"""Stored teacher states: a model wrapper that emits them in storage layout, and a teacher that reads them from a batch.

Storage layout, per text, without padding, all layers together: embeddings (T, H), hidden_states (T, L, H), queries,
keys and values (T, L, A, D), scores (T, T, L, A).

Shapes: B batch, T tokens, L layers, H hidden size, A attention heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.attention import check_access
from tinybert_cli.models.cls_last_layer import compute_all_tokens
from tinybert_cli.models.layer_outputs import LayerTeacher, forward_with_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WITHOUT_LAYERS = "embeddings"  # the only layer output with one tensor per text instead of one per layer


class ModelWithStates(torch.nn.Module):
    """A model that returns its logits and, in storage layout and float16, the outputs of some of its layers.

    Args:
        model: any model of transformers with a head.
        layers: the stored layers, counted from 0.
        layer_outputs: names of the layer outputs to store.

    Raises:
        InputError: attention scores, queries, keys or values are needed, but not available for this family.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], layer_outputs: frozenset[str]) -> None:
        super().__init__()
        check_access(model, layer_outputs)
        compute_all_tokens(model)
        self.model, self.layers, self.layer_outputs = model, layers, layer_outputs

    def forward(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        logits, outputs = forward_with_layers(self.model, inputs, self.layers, self.layer_outputs)
        return logits | {name: _to_storage(name, value).half() for name, value in outputs.items()}


class StoredTeacher(LayerTeacher):
    """A teacher that does not run: its layer outputs are in the batch, as `teacher_<name>`."""

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """The layer outputs of the compared layers, padded with zeros; `inputs` is unused."""
        return {name: _from_storage(name, batch[f"teacher_{name}"]) for name in sorted(self.layer_outputs)}


def state_shapes(config: Any, layers: int, layer_outputs: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """The stored shape of each layer output per token, or, for scores, per pair of tokens."""
    hidden_size, heads = int(config.hidden_size), int(config.num_attention_heads)
    shapes: dict[str, tuple[int, ...]] = {WITHOUT_LAYERS: (hidden_size,), "hidden_states": (layers, hidden_size)}
    shapes |= dict.fromkeys(("queries", "keys", "values"), (layers, heads, hidden_size // heads))
    shapes["scores"] = (layers, heads)
    return {name: shapes[name] for name in sorted(layer_outputs)}


def _to_storage(name: str, output: Any) -> Tensor:
    if name == WITHOUT_LAYERS:
        return output  # type: ignore[no-any-return]
    if name == "hidden_states":
        return torch.stack(output, dim=2)  # L times (B, T, H) → (B, T, L, H)
    if name == "scores":
        return torch.stack(output, dim=1).permute(0, 3, 4, 1, 2)  # L times (B, A, T, T) → (B, T, T, L, A)
    return torch.stack(output, dim=1).permute(0, 3, 1, 2, 4)  # L times (B, A, T, D) → (B, T, L, A, D)


def _from_storage(name: str, stored: Tensor) -> Any:
    if name == WITHOUT_LAYERS:
        return stored
    if name == "hidden_states":
        return stored.unbind(2)
    if name == "scores":
        return stored.permute(3, 0, 4, 1, 2).unbind(0)
    return stored.permute(2, 0, 3, 1, 4).unbind(0)
