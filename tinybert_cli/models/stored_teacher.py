"""Layer states on their way to disk and back: a model that says them as they are kept, a teacher that reads them.

Kept, each without padding, all layers side by side, so that a text is one piece of each file: embeddings (T, H),
hidden_states (T, L, H), queries, keys and values (T, L, A, D), scores (T, T, L, A).

Shapes: B batch, T tokens, L layers, H width, A heads, D dimensions of one head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.cls_last_layer import compute_all_tokens
from tinybert_cli.models.layer_outputs import check_readable, listen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERLESS = "embeddings"  # the one answer that is there once, not once per layer


class ModelWithStates(torch.nn.Module):
    """A model that says, besides its logits, the states of some layers as they are kept, in float16.

    Raises:
        InputError: the family hides its queries, keys and values.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], layer_outputs: frozenset[str]) -> None:
        super().__init__()
        check_readable(model, layer_outputs)
        compute_all_tokens(model)
        self.model, self.layers, self.layer_outputs = model, layers, layer_outputs

    def forward(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        logits, states = listen(self.model, inputs, self.layers, self.layer_outputs)
        return logits | {name: _packed(name, value).half() for name, value in states.items()}


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher that does not run: what it said of its layers comes with each batch, as `teacher_<name>`."""

    layer_outputs: frozenset[str]
    width: int
    layers: Sequence[int]  # counted from 0

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """What `reads` names, of every compared layer, padded with zeros."""
        return {name: _unpacked(name, batch[f"teacher_{name}"]) for name in sorted(self.layer_outputs)}


def state_shapes(config: Any, layers: int, layer_outputs: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """What is kept of each token, or of each pair of them."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    shapes: dict[str, tuple[int, ...]] = {LAYERLESS: (width,), "hidden_states": (layers, width)}
    shapes |= dict.fromkeys(("queries", "keys", "values"), (layers, heads, width // heads))
    shapes["scores"] = (layers, heads)
    return {name: shapes[name] for name in sorted(layer_outputs)}


def _packed(name: str, said: Any) -> Tensor:
    if name == LAYERLESS:
        return said  # type: ignore[no-any-return]
    if name == "hidden_states":
        return torch.stack(said, dim=2)  # L times (B, T, H) → (B, T, L, H)
    if name == "scores":
        return torch.stack(said, dim=1).permute(0, 3, 4, 1, 2)  # L times (B, A, T, T) → (B, T, T, L, A)
    return torch.stack(said, dim=1).permute(0, 3, 1, 2, 4)  # L times (B, A, T, D) → (B, T, L, A, D)


def _unpacked(name: str, kept: Tensor) -> Any:
    if name == LAYERLESS:
        return kept
    if name == "hidden_states":
        return kept.unbind(2)
    if name == "scores":
        return kept.permute(3, 0, 4, 1, 2).unbind(0)
    return kept.permute(2, 0, 3, 1, 4).unbind(0)
