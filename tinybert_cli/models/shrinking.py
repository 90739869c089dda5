"""Building students: which layers, hidden units, heads and neurons of a teacher its smaller copy keeps.

Shapes: H width (hidden units), A heads, D dimensions of one head, F feed-forward neurons.
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
    setting: settings.Model, teacher_model: PreTrainedModel, mapping: Sequence[int], *, seed: int
) -> PreTrainedModel:
    """A model of the teacher's class in the shape of `setting`, in eval mode, with the teacher's labels.

    `initialize: random` draws every weight from the config's distribution. `teacher` copies the layers in `mapping`
    and, where they are narrower, keeps what adds most to the residual stream, judged by the weights alone:

    * hidden units, one set for the whole model: the energy gamma^2 + beta^2 that the layer norms give them. What
      leaves a layer norm has unit variance before gamma, so this is each unit's share of what the layers read.
    * heads: ||W_O W_V||, the size of what a head can write; a dropped head's constant part moves into the bias.
    * neurons: ||w_in|| ||w_out||, in the units that are left.
    * dimensions of a head: the best approximation of W_Q' W_K and W_O W_V of that rank (Eckart and Young 1936); the
      queries are scaled so that the scores, which are divided by sqrt(D), keep their size. Larger heads are filled
      up with dimensions that change nothing yet.

    """
    config, teacher_config = shape(setting, teacher_model.config), teacher_model.config
    student = _fresh(type(teacher_model), config, seed)
    if setting.initialize == "random":
        return student.eval()
    weights = {key: tensor.detach().cpu().float() for key, tensor in teacher_model.state_dict().items()}
    if not (is_unchanged(setting) and list(mapping) == list(range(teacher_config.num_hidden_layers))):
        check_family(config)
        prefix = f"{teacher_model.base_model_prefix}."
        bare = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        narrowed = _narrow(bare, shape_of(teacher_config), config, mapping, seed)
        weights = {key: narrowed[key.removeprefix(prefix)] for key in student.state_dict()}
    student.load_state_dict(weights)
    return student.eval()


def _fresh(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return compute_cls_only(model_class(config))


def _narrow(weights: Tensors, base: Shape, config: PreTrainedConfig, mapping: Sequence[int], seed: int) -> Tensors:
    """The student's weights by the names of the teacher's, both without the prefix of the base model."""
    family = FAMILIES[config.model_type]
    student = shape_of(config)
    energy = _unit_energy(family, weights, base)
    units = _strongest(energy, student.hidden_size)
    narrowed = {
        key: _select(tensor, _axes_elsewhere(family, key, weights, units, base), {"units": units})
        for key, tensor in weights.items()
        if not key.startswith(f"{family.layers}.")
    }
    generator = torch.Generator().manual_seed(seed)
    for number, teacher_number in enumerate(mapping):
        prefix = f"{family.layers}.{teacher_number}."
        layer = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        layer = {key: _select(tensor, family.axes(key), {"units": units}) for key, tensor in layer.items()}
        layer |= _narrow_attention(layer, family, base, student, energy[units].sqrt(), generator)
        layer |= _narrow_neurons(layer, family, student, energy[units].sqrt())
        narrowed |= {f"{family.layers}.{number}.{key}": tensor for key, tensor in layer.items()}
    return narrowed


def _unit_energy(family: Family, weights: Tensors, base: Shape) -> torch.Tensor:
    """(H): each unit's share of the energy after a layer norm, averaged over all norms of the residual stream."""
    shares = []
    for key, gamma in weights.items():
        if key.endswith(("norm.weight", "Norm.weight")) and gamma.numel() == base.hidden_size:
            energy = gamma.double() ** 2 + weights[key.replace("weight", "bias")].double() ** 2
            shares.append(energy / energy.mean())
    return torch.stack(shares).mean(dim=0)


def _strongest(strength: torch.Tensor, count: int) -> torch.Tensor:
    """The positions of the `count` largest, in their old order; of equal ones the first."""
    return strength.argsort(descending=True, stable=True)[:count].sort().values


def _select(tensor: torch.Tensor, axes: Axes, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
    for dimension, axis in enumerate(axes[: tensor.dim()]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor


def _axes_elsewhere(family: Family, key: str, weights: Tensors, units: torch.Tensor, base: Shape) -> Axes:
    module = key.rpartition(".")[0]
    if len(units) == base.hidden_size:
        return ()
    if module not in family.elsewhere:
        raise InputError(
            f"'{key}' cannot be narrowed: this kind of head is not known", hint="leave hidden_size as it is"
        )
    if "embeddings_project.weight" in weights and module.startswith("embeddings."):
        return ()  # the embeddings keep their own, smaller width
    return family.elsewhere[module]


def _narrow_attention(
    layer: Tensors, family: Family, base: Shape, student: Shape, scale: torch.Tensor, generator: torch.Generator
) -> Tensors:
    """The strongest heads; `scale` (H) is how large each unit is that the layer reads."""
    heads, old_size = base.num_attention_heads, base.hidden_size // base.num_attention_heads
    size = student.hidden_size // student.num_attention_heads
    if heads == student.num_attention_heads and size == old_size:
        return {}
    query, key, value = (
        torch.cat([layer[f"{name}.weight"], layer[f"{name}.bias"][:, None]], dim=1).view(heads, old_size, -1).double()
        for name in (family.query, family.key, family.value)
    )  # (A, D, H + 1): the bias is one more input, which is always 1
    output = layer[f"{family.output}.weight"].T.reshape(heads, old_size, -1).double()  # (A, D, H)
    inputs = torch.cat([scale, scale.new_ones(1)])

    seen = value[..., :-1] * scale
    strength = ((output @ output.mT) * (seen @ seen.mT)).sum(dim=(1, 2)).clamp_min(0.0)  # ||W_O W_V||^2
    kept = _strongest(strength, student.num_attention_heads)
    constant = torch.einsum("adh,ad->ah", output, value[..., -1])  # what a head writes whatever it looks at
    bias = layer[f"{family.output}.bias"] + (constant.sum(dim=0) - constant[kept].sum(dim=0)).float()

    query, key, value, output = (part[kept] for part in (query, key, value, output))
    if size < old_size:
        query, key = (factor / inputs for factor in _lower_rank(query * inputs, key * inputs, size))
        output, value = _lower_rank(output, value * inputs, size)
        value = value / inputs
    elif size > old_size:
        query, value = (_fill_up(part, size, 0.02, generator) for part in (query, value))
        key, output = (_fill_up(part, size, 0.0, generator) for part in (key, output))
    query = query * (size / old_size) ** 0.5
    narrowed = {f"{family.output}.weight": output.flatten(0, 1).T.float().contiguous(), f"{family.output}.bias": bias}
    for name, part in ((family.query, query), (family.key, key), (family.value, value)):
        rows = part.flatten(0, 1).float()
        narrowed |= {f"{name}.weight": rows[:, :-1].contiguous(), f"{name}.bias": rows[:, -1].contiguous()}
    return narrowed


def _lower_rank(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (A, size, ...) whose product left' right is the nearest to that of the factors (A, D, ...)."""
    left_basis, left_rest = torch.linalg.qr(left.mT)
    right_basis, right_rest = torch.linalg.qr(right.mT)
    left_turn, strength, right_turn = torch.linalg.svd(left_rest @ right_rest.mT)
    root = strength[:, None, :size].sqrt()
    new_left = (left_basis @ left_turn[..., :size]) * root
    new_right = (right_basis @ right_turn.mT[..., :size]) * root
    return new_left.mT, new_right.mT


def _fill_up(part: torch.Tensor, size: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """More dimensions per head; with zeros on the other side of the product they change nothing, but can learn."""
    more = torch.randn(part.shape[0], size - part.shape[1], part.shape[2], generator=generator, dtype=part.dtype)
    return torch.cat([part, std * more], dim=1)


def _narrow_neurons(layer: Tensors, family: Family, student: Shape, scale: torch.Tensor) -> Tensors:
    reads = (layer[f"{family.up}.weight"].double() * scale).norm(dim=1)
    writes = layer[f"{family.down}.weight"].double().norm(dim=0)
    kept = {"neurons": _strongest(reads * writes, student.intermediate_size)}
    names = (f"{family.up}.weight", f"{family.up}.bias", f"{family.down}.weight")
    return {name: _select(layer[name], family.axes(name), kept) for name in names}
