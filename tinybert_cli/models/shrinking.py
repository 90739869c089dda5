"""Building a student from a teacher: copied layers, shrunk to the most important hidden units, heads and FFN units.

Shapes: H hidden size, A attention heads, D head dimension, F FFN units (intermediate_size).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from tinybert_cli import config as settings
from tinybert_cli.errors import InputError
from tinybert_cli.models.cls_last_layer import compute_cls_only
from tinybert_cli.models.families import FAMILIES, Axes, Family, shape_of
from tinybert_cli.models.shapes import check_family, is_unchanged, shape
from tinybert_cli.presets import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Tensors = dict[str, torch.Tensor]


def build_student(
    setting: settings.Model,
    teacher_model: PreTrainedModel,
    mapping: Sequence[int],
    *,
    seed: int,
    cls_only: bool = False,
) -> PreTrainedModel:
    """A model of the teacher's class with the shape in `setting`, in eval mode, with the teacher's labels.

    `initialize: random` draws every weight from the distribution in the config. `initialize: teacher` copies the layers
    in `mapping`. If the student is smaller, the parts that contribute most to the residual stream are selected by their
    weights, without data:

    * hidden units, the same set for the whole model: the energy gamma^2 + beta^2 of the layer norms. Their normalized
      input has unit variance, so this is each unit's share of the input of the layers.
    * heads: ||W_O W_V||, the norm of a head's possible output; the constant part of a dropped head's output is added to
      the bias.
    * FFN units: ||w_in|| ||w_out||, over the selected hidden units.
    * dimensions of a head: the best approximation of W_Q' W_K and W_O W_V of rank D (Eckart and Young 1936). The
      queries are rescaled so that the scores, which are divided by sqrt(D), keep their values. Larger heads get
      additional dimensions that do not change the output, but can be trained.

    Args:
        setting: the student's size and initialization.
        teacher_model: not changed.
        mapping: the teacher layer of each student layer, counted from 0; unused for random initialization.
        seed: of all random weights; the global random state is not changed.
        cls_only: the last layer of a sequence classifier computes the [CLS] token only (cls_last_layer.py).

    Raises:
        ConfigError: the sizes are not possible.
        InputError: the family or the head cannot be shrunk.
    """
    config, teacher_config = shape(setting, teacher_model.config), teacher_model.config
    student = _random_model(type(teacher_model), config, seed).eval()
    if cls_only:
        compute_cls_only(student)
    if setting.initialize == "random":
        return student
    weights = {key: tensor.detach().cpu().float() for key, tensor in teacher_model.state_dict().items()}
    if not (is_unchanged(setting) and list(mapping) == list(range(teacher_config.num_hidden_layers))):
        check_family(config)
        prefix = f"{teacher_model.base_model_prefix}."
        unprefixed = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        shrunk = _shrink(unprefixed, shape_of(teacher_config), config, mapping, seed)
        weights = {key: shrunk[key.removeprefix(prefix)] for key in student.state_dict()}
    student.load_state_dict(weights)
    return student


def _random_model(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model_class(config)


def _shrink(weights: Tensors, base: Shape, config: PreTrainedConfig, mapping: Sequence[int], seed: int) -> Tensors:
    """The student's weights from the teacher's, both without the prefix of the base model in their names."""
    family = FAMILIES[config.model_type]
    student = shape_of(config)
    energy = _unit_energy(weights, base)
    hidden = _largest(energy, student.hidden_size)
    shrunk = {
        key: _select(tensor, _axes_outside_layers(family, key, weights, hidden, base), {"hidden": hidden})
        for key, tensor in weights.items()
        if not key.startswith(f"{family.layers}.")
    }
    generator = torch.Generator().manual_seed(seed)
    for index, teacher_index in enumerate(mapping):
        prefix = f"{family.layers}.{teacher_index}."
        layer = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        layer = {key: _select(tensor, family.axes(key), {"hidden": hidden}) for key, tensor in layer.items()}
        layer |= _shrink_attention(layer, family, base, student, energy[hidden].sqrt(), generator)
        layer |= _shrink_ffn(layer, family, student, energy[hidden].sqrt())
        shrunk |= {f"{family.layers}.{index}.{key}": tensor for key, tensor in layer.items()}
    return shrunk


def _unit_energy(weights: Tensors, base: Shape) -> torch.Tensor:
    """(H,) each hidden unit's relative energy after a layer norm, averaged over the norms of the residual stream."""
    shares = []
    for key, gamma in weights.items():
        if key.endswith(("norm.weight", "Norm.weight")) and gamma.numel() == base.hidden_size:
            energy = gamma.double() ** 2 + weights[key.replace("weight", "bias")].double() ** 2
            shares.append(energy / energy.mean())
    return torch.stack(shares).mean(dim=0)


def _largest(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest values, in ascending order; of equal values the first."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _select(tensor: torch.Tensor, axes: Axes, indices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Select `indices` along every dimension whose axis they name."""
    for dimension, axis in enumerate(axes[: tensor.dim()]):
        if axis in indices:
            tensor = tensor.index_select(dimension, indices[axis])
    return tensor


def _axes_outside_layers(family: Family, key: str, weights: Tensors, hidden: torch.Tensor, base: Shape) -> Axes:
    module = key.rpartition(".")[0]
    if len(hidden) == base.hidden_size:
        return ()
    if module not in family.outside_layers:
        raise InputError(f"'{key}' cannot be shrunk: unknown type of head", hint="do not set hidden_size")
    if "embeddings_project.weight" in weights and module.startswith("embeddings."):
        return ()  # ELECTRA: the embeddings have their own, smaller size
    return family.outside_layers[module]


def _shrink_attention(
    layer: Tensors, family: Family, base: Shape, student: Shape, scale: torch.Tensor, generator: torch.Generator
) -> Tensors:
    """The most important heads in the student's head dimension; `scale` (H,) is the RMS of each input unit."""
    heads, old_size = base.num_attention_heads, base.hidden_size // base.num_attention_heads
    size = student.hidden_size // student.num_attention_heads
    if heads == student.num_attention_heads and size == old_size:
        return {}
    query, key, value = (
        torch.cat([layer[f"{name}.weight"], layer[f"{name}.bias"][:, None]], dim=1).view(heads, old_size, -1).double()
        for name in (family.query, family.key, family.value)
    )  # (A, D, H + 1): the bias is the weight of a constant input of 1
    output = layer[f"{family.output}.weight"].T.reshape(heads, old_size, -1).double()  # (A, D, H)
    inputs = torch.cat([scale, scale.new_ones(1)])

    scaled_value = value[..., :-1] * scale
    importance = ((output @ output.mT) * (scaled_value @ scaled_value.mT)).sum(dim=(1, 2)).clamp_min(0.0)
    selected = _largest(importance, student.num_attention_heads)  # by ||W_O W_V||^2
    constant = torch.einsum("adh,ad->ah", output, value[..., -1])  # (A, H), from the value bias
    bias = layer[f"{family.output}.bias"] + (constant.sum(dim=0) - constant[selected].sum(dim=0)).float()

    query, key, value, output = (weight[selected] for weight in (query, key, value, output))
    if size < old_size:
        query, key = (factor / inputs for factor in _lower_rank(query * inputs, key * inputs, size))
        output, value = _lower_rank(output, value * inputs, size)
        value = value / inputs
    elif size > old_size:
        query, value = (_extend(weight, size, 0.02, generator) for weight in (query, value))
        key, output = (_extend(weight, size, 0.0, generator) for weight in (key, output))
    query = query * (size / old_size) ** 0.5
    shrunk = {f"{family.output}.weight": output.flatten(0, 1).T.float().contiguous(), f"{family.output}.bias": bias}
    for name, weight in ((family.query, query), (family.key, key), (family.value, value)):
        rows = weight.flatten(0, 1).float()
        shrunk |= {f"{name}.weight": rows[:, :-1].contiguous(), f"{name}.bias": rows[:, -1].contiguous()}
    return shrunk


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


def _shrink_ffn(layer: Tensors, family: Family, student: Shape, scale: torch.Tensor) -> Tensors:
    """The most important FFN units; `scale` (H,) is the RMS of each input unit."""
    up_norm = (layer[f"{family.up}.weight"].double() * scale).norm(dim=1)  # (F,)
    down_norm = layer[f"{family.down}.weight"].double().norm(dim=0)  # (F,)
    selected = {"ffn": _largest(up_norm * down_norm, student.intermediate_size)}
    names = (f"{family.up}.weight", f"{family.up}.bias", f"{family.down}.weight")
    return {name: _select(layer[name], family.axes(name), selected) for name in names}
