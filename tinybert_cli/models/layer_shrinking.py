"""Shrinking one layer to its most important heads, head dimensions and FFN units.

Shapes: H hidden size, A attention heads, D head dimension, F FFN units (intermediate_size).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tinybert_cli.models.families import Axes, Family
from tinybert_cli.presets import Shape

Tensors = dict[str, torch.Tensor]


def split_fused(layer: Tensors, family: Family) -> Tensors:
    """The weights of a layer with a module for each part of a fused one: `attn.Wqkv.0.weight`."""
    parts = dict(layer)
    for module, count in family.fused.items():
        for name in [f"{module}.weight", f"{module}.bias"]:
            if name in parts:
                chunks = parts.pop(name).chunk(count)
                parts |= {f"{module}.{i}.{name.rpartition('.')[2]}": chunk for i, chunk in enumerate(chunks)}
    return parts


def join_fused(layer: Tensors, family: Family) -> Tensors:
    """The inverse of `split_fused`."""
    joined = dict(layer)
    for module, count in family.fused.items():
        for kind in ("weight", "bias"):
            names = [f"{module}.{i}.{kind}" for i in range(count)]
            if names[0] in joined:
                joined[f"{module}.{kind}"] = torch.cat([joined.pop(name) for name in names])
    return joined


def with_first_norm(layer: Tensors, family: Family, embedding_norm: Tensors, *, first: bool) -> Tensors:
    """A layer with or without the norm that the first layer of some families lacks, because its input is normalized.

    A layer that becomes the first one: the norm's scale is multiplied into the projections, relative to that of the
    embeddings. This is exact if the norm of the embeddings scales all units equally. A first layer that moves up gets
    the norm of the embeddings.

    Args:
        layer: weights in which fused modules are split; not changed.
        embedding_norm: `weight` (H,) and, if the norm has one, `bias`.
        first: whether the layer is the first one of the student.
    """
    name = family.first_norm
    if name is None or first == (f"{name}.weight" not in layer):
        return layer
    if not first:
        return layer | {f"{name}.{kind}": tensor for kind, tensor in embedding_norm.items()}
    layer = dict(layer)
    gamma, beta = layer.pop(f"{name}.weight"), layer.pop(f"{name}.bias", None)
    scale = gamma / embedding_norm["weight"].square().mean().sqrt()
    for module in (family.query, family.key, family.value):
        weight, bias = layer[f"{module}.weight"], layer.get(f"{module}.bias")
        if bias is not None and beta is not None:
            layer[f"{module}.bias"] = bias + weight @ beta
        layer[f"{module}.weight"] = weight * scale
    return layer


def largest(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest values, in ascending order; of equal values the first."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def select(tensor: torch.Tensor, axes: Axes, indices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Select `indices` along every dimension whose axis they name."""
    for dimension, axis in enumerate(axes[: tensor.dim()]):
        if axis in indices:
            tensor = tensor.index_select(dimension, indices[axis])
    return tensor


def head_importance(layer: Tensors, family: Family, base: Shape, scale: torch.Tensor) -> torch.Tensor:
    """(A,) ||W_O W_V||^2 of each head, for inputs with an RMS of `scale` (H,)."""
    value, output = _head_rows(layer, family.value, base)[..., :-1] * scale, _head_columns(layer, family.output, base)
    return ((output @ output.mT) * (value @ value.mT)).sum(dim=(1, 2)).clamp_min(0.0)


def shrink_attention(
    layer: Tensors,
    family: Family,
    base: Shape,
    student: Shape,
    scale: torch.Tensor,
    selected: torch.Tensor,
    generator: torch.Generator,
) -> Tensors:
    """The `selected` heads in the student's head dimension; `scale` (H,) is the RMS of each input unit.

    Relative positions have projections of their own, or are projected by those of the content. In both cases each score
    is a sum of products of a query-side and a key-side vector, so the two sides are reduced together.
    """
    old_size = base.hidden_size // base.num_attention_heads
    size = student.hidden_size // student.num_attention_heads
    if len(selected) == base.num_attention_heads and size == old_size:
        return {}
    queries = [name for name in (family.query, family.position_query) if f"{name}.weight" in layer]
    keys = [name for name in (family.key, family.position_key) if f"{name}.weight" in layer]
    weights = {str(name): _head_rows(layer, str(name), base) for name in (*queries, *keys, family.value)}  # (A, D, H+1)
    output = _head_columns(layer, family.output, base)  # (A, D, H)
    inputs = torch.cat([scale, scale.new_ones(1)])

    constant = torch.einsum("adh,ad->ah", output, weights[family.value][..., -1])  # (A, H), from the value bias
    removed = (constant.sum(dim=0) - constant[selected].sum(dim=0)).float()
    weights = {name: weight[selected] for name, weight in weights.items()}
    output = output[selected]
    if size < old_size:
        left, right = (torch.cat([weights[str(name)] * inputs for name in side], dim=-1) for side in (queries, keys))
        for side, factor in zip((queries, keys), _lower_rank(left, right, size), strict=True):
            parts = factor.chunk(len(side), dim=-1)
            weights |= {str(name): part / inputs for name, part in zip(side, parts, strict=True)}
        output, value = _lower_rank(output, weights[family.value] * inputs, size)
        weights[family.value] = value / inputs
    elif size > old_size:
        for name in (*queries, family.value, *keys):
            weights[str(name)] = _extend(weights[str(name)], size, 0.0 if name in keys else 0.02, generator)
        output = _extend(output, size, 0.0, generator)
    shrunk = {f"{family.output}.weight": output.flatten(0, 1).T.float().contiguous()}
    if f"{family.output}.bias" in layer:
        shrunk[f"{family.output}.bias"] = layer[f"{family.output}.bias"] + removed
    for name, weight in weights.items():
        rows = (weight * (size / old_size) ** 0.5 if name in queries else weight).flatten(0, 1).float()
        shrunk[f"{name}.weight"] = rows[:, :-1].contiguous()
        if f"{name}.bias" in layer:
            shrunk[f"{name}.bias"] = rows[:, -1].contiguous()
    return shrunk


def shrink_ffn(layer: Tensors, family: Family, student: Shape, scale: torch.Tensor) -> Tensors:
    """The most important FFN units; `scale` (H,) is the RMS of each input unit. A unit and its gate go together."""
    into = [str(name) for name in (family.up, family.gate) if name is not None]
    importance = layer[f"{family.down}.weight"].double().norm(dim=0)  # (F,)
    for name in into:
        importance = importance * (layer[f"{name}.weight"].double() * scale).norm(dim=1)
    selected = {"ffn": largest(importance, student.intermediate_size)}
    names = [f"{name}.{kind}" for name in into for kind in ("weight", "bias")] + [f"{family.down}.weight"]
    return {name: select(layer[name], family.axes(name), selected) for name in names if name in layer}


def _head_rows(layer: Tensors, name: str, base: Shape) -> torch.Tensor:
    """(A, D, H + 1): a projection's weight and bias, which is the weight of a constant input of 1, per head."""
    weight = layer[f"{name}.weight"]
    bias = layer.get(f"{name}.bias", weight.new_zeros(len(weight)))
    return torch.cat([weight, bias[:, None]], dim=1).view(base.num_attention_heads, _head_size(base), -1).double()


def _head_columns(layer: Tensors, name: str, base: Shape) -> torch.Tensor:
    """(A, D, H): the output projection per head."""
    return layer[f"{name}.weight"].T.reshape(base.num_attention_heads, _head_size(base), -1).double()


def _head_size(shape: Shape) -> int:
    return shape.hidden_size // shape.num_attention_heads


def _lower_rank(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (A, size, ...) with the best rank-`size` approximation of left' right, from factors (A, D, ...)."""
    left_q, left_r = torch.linalg.qr(left.mT)
    right_q, right_r = torch.linalg.qr(right.mT)
    u, singular_values, v_transposed = torch.linalg.svd(left_r @ right_r.mT)
    root = singular_values[:, None, :size].sqrt()
    new_left = (left_q @ u[..., :size]) * root
    new_right = (right_q @ v_transposed.mT[..., :size]) * root
    return new_left.mT, new_right.mT


def _extend(weight: torch.Tensor, size: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """Add head dimensions; if the other factor is extended with zeros, the output is unchanged, but can be trained."""
    added_shape = (weight.shape[0], size - weight.shape[1], weight.shape[2])
    added = torch.randn(added_shape, generator=generator, dtype=weight.dtype)
    return torch.cat([weight, std * added], dim=1)
