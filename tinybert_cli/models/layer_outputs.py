"""Intermediate outputs (hidden states, attention scores, Q/K/V) of teacher and student.

Names of layer outputs: embeddings (the input of the first layer), hidden_states, and those of `attention`: scores
(before softmax), queries, keys, values. `types.ModelOutputs` gives their shapes.

Shapes: B batch, T tokens, H hidden size, A attention heads, D head dimension.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.attention import check_access, read_attention
from tinybert_cli.models.cls_last_layer import compute_all_tokens
from tinybert_cli.models.families import known_family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerTeacher(ABC):
    """A source of the teacher's layer outputs: a model (`Teacher`) or stored states (`stored_teacher.StoredTeacher`).

    Args:
        layer_outputs: names of the layer outputs that the losses need.
        hidden_size: of the teacher.
        layers: the compared layers, counted from 0.
    """

    def __init__(self, layer_outputs: frozenset[str], hidden_size: int, layers: Sequence[int]) -> None:
        self.layer_outputs, self.hidden_size, self.layers = layer_outputs, hidden_size, layers

    @abstractmethod
    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """The layer outputs of the compared layers; `inputs` are the names of the model inputs in the batch."""


class Teacher(LayerTeacher):
    """A teacher that runs on each batch: no gradients, no dropout, and no layers above the last compared one.

    Args:
        model: any model of transformers. Its layers above the last of `layers` are removed.
        layers: the compared layers, counted from 0.
        layer_outputs: names of the layer outputs that the losses need.

    Raises:
        InputError: attention scores, queries, keys or values are needed, but not available for this family.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], layer_outputs: frozenset[str]) -> None:
        super().__init__(layer_outputs, int(model.config.hidden_size), layers)
        check_access(model, layer_outputs)
        compute_all_tokens(model)
        self.base_model = model.base_model.eval().requires_grad_(False)
        remove_layers_above(self.base_model, max(layers))

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        model_inputs = {name: value for name, value in batch.items() if name in inputs}
        with torch.no_grad():
            return forward_with_layers(self.base_model, model_inputs, self.layers, self.layer_outputs)[1]


class Student(torch.nn.Module):
    """A student in training: returns logits and the outputs of all layers, projected to the teacher's hidden size.

    The linear projections are trained with the model and discarded with this wrapper. There are none if the hidden
    sizes are equal, one for all layers if `shared`, and otherwise one for the embeddings and one per layer. In eval
    mode the wrapper returns the model's own outputs, unless the model has no head.
    """

    def __init__(self, model: PreTrainedModel, teacher: LayerTeacher, *, shared: bool) -> None:
        super().__init__()
        check_access(model, teacher.layer_outputs)
        compute_all_tokens(model)
        self.model, self.layer_outputs = model, teacher.layer_outputs
        self.has_head = model.base_model is not model
        self.layers = range(model.config.num_hidden_layers)
        hidden_size = int(model.config.hidden_size)
        count = 0 if hidden_size == teacher.hidden_size else 1 if shared else 1 + len(self.layers)
        self.projections = torch.nn.ModuleList(torch.nn.Linear(hidden_size, teacher.hidden_size) for _ in range(count))

    def forward(self, **inputs: Tensor) -> Mapping[str, Any]:
        if self.has_head and not self.training:
            return self.model(**inputs)  # type: ignore[no-any-return]
        logits, outputs = forward_with_layers(self.model, inputs, self.layers, self.layer_outputs)
        if "embeddings" in outputs:
            outputs["embeddings"] = self._project(0, outputs["embeddings"])
        if "hidden_states" in outputs:
            outputs["hidden_states"] = [self._project(1 + i, state) for i, state in enumerate(outputs["hidden_states"])]
        return logits | outputs

    def _project(self, index: int, state: Tensor) -> Tensor:
        if not len(self.projections):
            return state
        projected: Tensor = self.projections[index % len(self.projections)](state)
        return projected


def forward_with_layers(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], layers: Sequence[int], layer_outputs: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One forward pass: the logits, if the model has a head, and the `layer_outputs` of these layers."""
    with read_attention(model.base_model, layers, layer_outputs) as read:
        outputs = model(**inputs, output_hidden_states=True)
        attention = read()
    logits = {name: outputs[name] for name in outputs if name.endswith("logits")}
    return logits, attention | _states(outputs.hidden_states, model, layers, layer_outputs)


def remove_layers_above(base_model: Any, layer: int) -> None:
    """Removes the layers above this one, counted from 0, where the family is known.

    The norm after the last layer goes with them, so that the layer's state is the one that it has in the whole model.
    Layers that share weights with others stay.
    """
    family = known_family(base_model.config)
    if family is None or layer + 1 >= base_model.config.num_hidden_layers:
        return
    modules = base_model.get_submodule(family.layers)
    if family.shares_layers:
        _run_fewer_layers(base_model.encoder, modules, layer + 1)
        return
    del modules[layer + 1 :]
    if family.last_norm is not None:
        base_model.set_submodule(family.last_norm, torch.nn.Identity())


def _run_fewer_layers(encoder: Any, groups: Any, layers: int) -> None:
    """ALBERT, if all layers share their weights or none do; its encoder reads the number of layers from its config."""
    if len(groups) not in (1, encoder.config.num_hidden_layers):
        return
    encoder.config = copy.deepcopy(encoder.config)
    encoder.config.num_hidden_layers = layers
    del groups[layers:]
    encoder.config.num_hidden_groups = len(groups)


def _states(
    hidden_states: Sequence[Tensor], model: PreTrainedModel, layers: Sequence[int], layer_outputs: frozenset[str]
) -> dict[str, Any]:
    """Select from the input of the first layer and the outputs of all layers, each (B, T, H)."""
    states: dict[str, Any] = {}
    parts = int(model.config.to_dict().get("inner_group_num", 1))  # of a layer of ALBERT, which have a state each
    if "embeddings" in layer_outputs:
        states["embeddings"] = hidden_states[0]
    if "hidden_states" in layer_outputs:
        states["hidden_states"] = [hidden_states[parts * (1 + layer)] for layer in layers]
    return states
