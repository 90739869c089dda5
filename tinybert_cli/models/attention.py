"""Queries, keys, values and attention scores, read while a model runs; the fast attention kernel stays in use.

Shapes: B batch, T tokens, A attention heads, D head dimension.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.models.capabilities import capability_table
from tinybert_cli.models.families import FAMILIES, Attention, Family, known_family, stored_layers
from tinybert_cli.types import NOT_ATTENDED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VECTORS = ("queries", "keys", "values")
READ = frozenset({*VECTORS, "scores"})


def check_access(model: PreTrainedModel, layer_outputs: frozenset[str]) -> None:
    """InputError if the losses need outputs of layers that this family does not expose, or has not for every token."""
    family = model.config.model_type
    if "hidden_states" in layer_outputs and "block_sizes" in model.config.to_dict():
        raise InputError(
            f"the layers of {family} models join tokens, so their states cannot be compared token by token",
            hint="set losses.hidden_states, losses.cosine and losses.pooled to 0",
        )
    losses = [loss for loss, names in LOSS_INPUTS.items() if layer_outputs & set(names)]
    if losses and known_family(model.config) is None:
        raise InputError(
            f"the attention of {family} models cannot be read, but the loss {' and the loss '.join(losses)} needs it\n"
            + capability_table(family, None),
            hint=f"set {' and '.join(f'losses.{loss}' for loss in losses)} to 0, or use one of {', '.join(FAMILIES)}",
        )


@contextmanager
def read_attention(
    base_model: Any, layers: Sequence[int], layer_outputs: frozenset[str]
) -> Iterator[Callable[[], dict[str, list[Tensor]]]]:
    """Hooks for one forward pass; the function then returns queries, keys, values (B, A, T, D) and scores (B, A, T, T).

    There is one tensor per entry of `layers`, in that order, for each of these names in `layer_outputs`. Queries and
    keys are those whose product is the score: after rotary positions. Scores are those before softmax, NOT_ATTENDED for
    tokens outside the window of a local layer.
    """
    wanted = layer_outputs & READ
    if not wanted:
        yield dict
        return
    family, stored = FAMILIES[base_model.config.model_type], stored_layers(base_model.config)
    modules: Any = base_model.get_submodule(family.layers)
    readers = {
        index: _LayerReader(modules[index], family, int(base_model.config.num_attention_heads), wanted)
        for index in sorted({stored[layer] for layer in layers})
    }

    def outputs() -> dict[str, list[Tensor]]:
        calls = [readers[stored[layer]].calls[stored[:layer].count(stored[layer])] for layer in layers]
        return {name: [call[name] for call in calls] for name in sorted(wanted)}

    try:
        yield outputs
    finally:
        for reader in readers.values():
            reader.remove()


class _LayerReader:
    """The attention of one layer; `calls` has the wanted tensors of each of its calls: ALBERT calls a layer again."""

    def __init__(self, layer: Any, family: Family, heads: int, wanted: frozenset[str]) -> None:
        self.family, self.heads, self.wanted = family, heads, wanted
        self.calls: list[dict[str, Tensor]] = []
        self._projected: dict[str, Tensor] = {}
        modules = [*family.fused] if family.fused else [family.query, family.key, family.value]
        names = [name for name in modules if name.startswith(f"{family.attention}.")]
        self._hooks = [layer.get_submodule(name).register_forward_hook(self._projection(name)) for name in names]
        attention = layer.get_submodule(family.attention)
        self._hooks.append(attention.register_forward_hook(self._attend, with_kwargs=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _projection(self, name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            parts = self.family.fused.get(name)
            named = (
                {name: output} if parts is None else {f"{name}.{i}": o for i, o in enumerate(output.chunk(parts, -1))}
            )
            # Relative positions may have the same projection, which then runs again.
            self._projected = named | self._projected

        return hook

    def _attend(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        names = (self.family.query, self.family.key, self.family.value)
        query, key, value = (_by_head(self._projected[name], self.heads) for name in names)
        arguments = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        if self.family.scores == "rotary":
            query, key = _rotated(query, key, *arguments["position_embeddings"])
        call = {"queries": query, "keys": key, "values": value}
        if "scores" in self.wanted:
            call["scores"] = SCORES[self.family.scores](module, arguments, query, key)
        self._projected = {}
        self.calls.append({name: call[name] for name in self.wanted})


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """(B, T, A·D) → (B, A, T, D)"""
    batch, tokens, _ = projected.shape
    return projected.view(batch, tokens, heads, -1).transpose(1, 2)


def _rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864), with the two halves of a head as the pairs."""

    def rotate(x: Tensor) -> Tensor:
        first, second = x.float().chunk(2, dim=-1)
        return (x.float() * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]).to(x.dtype)

    return rotate(query), rotate(key)


def _plain_scores(module: Any, arguments: Mapping[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """QK^T / sqrt(D), in float32 even under autocast."""
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = query.float() @ key.float().mT / query.shape[-1] ** 0.5
    return scores


def _biased_scores(module: Any, arguments: Mapping[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """Plus a bias (B, A, T, T) for the distance of two tokens."""
    bias: Tensor = arguments["position_bias"]
    return _plain_scores(module, arguments, query, key) + bias.float()


def _windowed_scores(module: Any, arguments: Mapping[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """NOT_ATTENDED for tokens as far apart as the window of a local layer, or further."""
    scores = _plain_scores(module, arguments, query, key)
    if module.sliding_window is None:
        return scores
    positions = torch.arange(scores.shape[-1], device=scores.device)
    is_far = (positions[:, None] - positions[None, :]).abs() >= module.sliding_window
    windowed: Tensor = scores.masked_fill(is_far, NOT_ATTENDED)
    return windowed


def _disentangled_scores(module: Any, arguments: Mapping[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """Content to content, content to position and position to content (He et al. 2021, arXiv 2006.03654, eq. 4)."""
    terms = 1 + sum(name in module.pos_att_type for name in ("c2p", "p2c"))
    scores = _plain_scores(module, arguments, query, key) / math.sqrt(terms)
    if not module.relative_attention:
        return scores
    batch, heads, tokens, _ = query.shape
    by_position = module.disentangled_attention_bias(
        query.flatten(0, 1), key.flatten(0, 1), arguments["relative_pos"], arguments["rel_embeddings"], terms
    )
    if terms > 1:
        scores = scores + by_position.float().view(batch, heads, tokens, tokens)
    return scores


LOSS_INPUTS = {"attentions": ("scores",), "relations": VECTORS}  # loss → the layer outputs that it needs
SCORES: dict[Attention, Callable[[Any, Mapping[str, Any], Tensor, Tensor], Tensor]] = {
    "plain": _plain_scores,
    "biased": _biased_scores,
    "rotary": _windowed_scores,
    "disentangled": _disentangled_scores,
}
