"""Building a student from a teacher: copied layers, shrunk to the most important hidden units, heads and FFN units.

Shapes: H hidden size, A attention heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tinybert_cli import config as settings
from tinybert_cli.errors import InputError
from tinybert_cli.models.attention_type import keep_attention_type
from tinybert_cli.models.cls_last_layer import compute_cls_only
from tinybert_cli.models.families import FAMILIES, Axes, Family, shape_of, stored_layers
from tinybert_cli.models.family_settings import with_layers
from tinybert_cli.models.layer_shrinking import (
    Tensors,
    head_importance,
    join_fused,
    largest,
    select,
    shrink_attention,
    shrink_ffn,
    split_fused,
    with_first_norm,
)
from tinybert_cli.models.shapes import check_family, is_unchanged, shape
from tinybert_cli.presets import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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
      the bias. If the layers share a table of positions per head (MPNet), all layers keep the same heads.
    * FFN units: ||w_in|| ||w_out||, over the selected hidden units; times ||w_gate|| if a gate multiplies the unit.
    * dimensions of a head: the best approximation of W_Q' W_K and W_O W_V of rank D (Eckart and Young 1936). The
      queries are rescaled so that the scores, which are divided by sqrt(D), keep their values. Larger heads get
      additional dimensions that do not change the output, but can be trained.

    Layers that share their weights (ALBERT) get weights of their own, unless the student is an unchanged copy.

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
    teacher_config = teacher_model.config
    config = with_layers(shape(setting, teacher_config), teacher_config, mapping)
    student = _random_model(type(teacher_model), config, seed).eval()
    keep_attention_type(student)
    if cls_only:
        compute_cls_only(student)
    if setting.initialize == "random":
        return student
    weights = {key: tensor.detach().cpu().float() for key, tensor in teacher_model.state_dict().items()}
    if not (is_unchanged(setting) and list(mapping) == list(range(teacher_config.num_hidden_layers))):
        check_family(config)
        prefix = f"{teacher_model.base_model_prefix}."
        unprefixed = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        shrunk = _shrink(unprefixed, teacher_config, config, mapping, seed)
        weights = {key: shrunk[key.removeprefix(prefix)] for key in student.state_dict()}
    student.load_state_dict(weights)
    return student


def _random_model(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model_class(config)


def _shrink(
    weights: Tensors, base_config: PreTrainedConfig, config: PreTrainedConfig, mapping: Sequence[int], seed: int
) -> Tensors:
    """The student's weights from the teacher's, both without the prefix of the base model in their names."""
    family, base, student = FAMILIES[config.model_type], shape_of(base_config), shape_of(config)
    stored = stored_layers(base_config)
    layers = [split_fused(_inside(weights, f"{family.layers}.{stored[index]}."), family) for index in mapping]
    embedding_norm = _inside(weights, f"{family.embedding_norm}.")
    layers = [with_first_norm(layer, family, embedding_norm, first=index == 0) for index, layer in enumerate(layers)]
    energy = _unit_energy(weights, family, base)
    hidden = largest(energy, student.hidden_size)
    scale = energy[hidden].sqrt()
    layers = [
        {key: select(tensor, family.axes(key), {"hidden": hidden}) for key, tensor in layer.items()} for layer in layers
    ]
    heads = _heads(layers, family, base, student, scale)
    units = {"hidden": hidden, "pooled": hidden, "head": heads[0]}
    shrunk = {
        key: select(tensor, _axes_outside_layers(family, key, weights, base, student), units)
        for key, tensor in weights.items()
        if not key.startswith(f"{family.layers}.")
    }
    generator = torch.Generator().manual_seed(seed)
    for index, layer in enumerate(layers):
        layer |= shrink_attention(layer, family, base, student, scale, heads[index], generator)
        layer |= shrink_ffn(layer, family, student, scale)
        shrunk |= {f"{family.layers}.{index}.{key}": tensor for key, tensor in join_fused(layer, family).items()}
    return shrunk


def _inside(weights: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def _unit_energy(weights: Tensors, family: Family, base: Shape) -> torch.Tensor:
    """(H,) each hidden unit's relative energy after a layer norm, averaged over the norms of the residual stream."""
    layer_norms = tuple(f".{name}.weight" for name in family.norms)
    outside = {f"{name}.weight" for name, axes in family.outside_layers.items() if axes == ("hidden",)}
    shares = []
    for key, gamma in weights.items():
        is_norm = key in outside or (key.startswith(f"{family.layers}.") and key.endswith(layer_norms))
        if is_norm and not _has_embedding_size(family, key, weights):
            beta = weights.get(key.replace("weight", "bias"), torch.zeros_like(gamma))
            energy = gamma.double() ** 2 + beta.double() ** 2
            shares.append(energy / energy.mean())
    return torch.stack(shares).mean(dim=0)


def _heads(
    layers: Sequence[Tensors], family: Family, base: Shape, student: Shape, scale: torch.Tensor
) -> list[torch.Tensor]:
    """The selected heads of each layer; the same ones in all layers if these share a table with a column per head."""
    importance = [head_importance(layer, family, base, scale) for layer in layers]
    if any("head" in axes for axes in family.outside_layers.values()):
        importance = [torch.stack([of_layer / of_layer.mean() for of_layer in importance]).mean(dim=0)] * len(layers)
    return [largest(of_layer, student.num_attention_heads) for of_layer in importance]


def _has_embedding_size(family: Family, key: str, weights: Tensors) -> bool:
    """Whether a weight belongs to embeddings with a size of their own, which are projected to the hidden size."""
    module = key.rpartition(".")[0]
    if f"{family.embedding_projection}.weight" not in weights or module == family.embedding_projection:
        return False
    return module.startswith("embeddings.") and not (family.norm_after_projection and module == family.embedding_norm)


def _axes_outside_layers(family: Family, key: str, weights: Tensors, base: Shape, student: Shape) -> Axes:
    """The dimensions of a weight that are selected; none if it has nothing to do with what becomes smaller."""
    module = key.rpartition(".")[0]
    axes = family.outside_layers.get(module, ())
    if student.hidden_size == base.hidden_size:
        return axes if "head" in axes else ()
    if not axes:
        raise InputError(f"'{key}' cannot be shrunk: unknown type of head", hint="do not set hidden_size")
    return () if _has_embedding_size(family, key, weights) else axes
