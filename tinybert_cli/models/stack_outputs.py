"""Hidden states of both stacks of a translation model, of the teacher and of the student, on the same target tokens.

Shapes: B batch, T source tokens, U target tokens, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.translation_models import STACKS, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

StackLayers = Mapping[str, Sequence[int]]  # "encoder" and "decoder" → layers, counted from 0


class StackTeacher(ABC):
    """A source of the teacher's hidden states: a model, or a label dataset (`StoredStackTeacher`).

    Args:
        layers: the compared layers of each stack, in the order of the student's layers.
        layer_outputs: `encoder_hidden_states`, `decoder_hidden_states`, or both.
        hidden_size: of the teacher.
    """

    def __init__(self, layers: StackLayers, layer_outputs: frozenset[str], hidden_size: int) -> None:
        self.layers, self.layer_outputs, self.hidden_size = layers, layer_outputs, hidden_size

    @abstractmethod
    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """The hidden states after the compared layers; `inputs` are the names of the model inputs in the batch."""


class LiveStackTeacher(StackTeacher):
    """A teacher that runs on each batch and reads its target tokens, whatever text they are; without gradients."""

    def __init__(self, model: PreTrainedModel, layers: StackLayers, layer_outputs: frozenset[str]) -> None:
        super().__init__(layers, layer_outputs, int(model.config.hidden_size))
        self.base_model = model.base_model.eval().requires_grad_(False)

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        model_inputs = {name: value for name, value in batch.items() if name in inputs}
        with torch.no_grad():
            outputs = self.base_model(**model_inputs, output_hidden_states=True, use_cache=False)
        return _states(outputs, self.layers, self.layer_outputs)


class StoredStackTeacher(StackTeacher):
    """A teacher that does not run: its states are in the batch, as `teacher_<name>` (B, T, L, H)."""

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """The hidden states after the compared layers; `inputs` is unused."""
        return {name: batch[f"teacher_{name}"].unbind(2) for name in sorted(self.layer_outputs)}


class ModelWithStackStates(torch.nn.Module):
    """A model that returns the states of these layers of both stacks, (B, T, L, H) each, in float16."""

    def __init__(self, model: PreTrainedModel, layers: StackLayers) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, **inputs: Any) -> Mapping[str, Tensor]:
        outputs = self.model(**inputs, output_hidden_states=True)
        states = _states(outputs, self.layers, frozenset(map(_name, self.layers)))
        return {name: torch.stack(values, dim=2).half() for name, values in states.items()}


class StackStudent(torch.nn.Module):
    """A student in training: returns logits and the hidden states of both stacks, projected to the teacher's size.

    The linear projections are trained with the model and discarded with this wrapper. There are none if the hidden
    sizes are equal, one for all layers of a stack if `shared`, and otherwise one per layer. In eval mode the wrapper
    returns the model's own outputs.
    """

    def __init__(self, model: PreTrainedModel, teacher: StackTeacher, *, shared: bool) -> None:
        super().__init__()
        self.model, self.layer_outputs = model, teacher.layer_outputs
        self.layers = {stack: range(count) for stack, count in depths(model.config).items()}
        size, wanted = int(model.config.hidden_size), teacher.hidden_size
        self.projections = torch.nn.ModuleDict()
        for stack, layers in self.layers.items():
            if size != wanted and _name(stack) in teacher.layer_outputs:
                count = 1 if shared else len(layers)
                self.projections[stack] = torch.nn.ModuleList(torch.nn.Linear(size, wanted) for _ in range(count))

    def forward(self, **inputs: Any) -> Mapping[str, Any]:
        if not self.training:
            return self.model(**inputs)  # type: ignore[no-any-return]
        outputs = self.model(**inputs, output_hidden_states=True)
        states = _states(outputs, self.layers, self.layer_outputs)
        for stack, projections in self.projections.items():
            name, modules = _name(stack), list(projections.children())
            states[name] = [modules[index % len(modules)](state) for index, state in enumerate(states[name])]
        return {"logits": outputs["logits"], **states}


def depths(config: Any) -> dict[str, int]:
    """Number of layers of each stack."""
    sizes = shape_of(config)
    return dict(zip(STACKS, (sizes.num_hidden_layers, sizes.num_decoder_layers), strict=True))


def _states(outputs: Any, layers: StackLayers, layer_outputs: frozenset[str]) -> dict[str, Any]:
    """The outputs of these layers, (B, T, H) or (B, U, H) each; the first state is the input of the first layer."""
    return {
        _name(stack): [outputs[_name(stack)][1 + layer] for layer in indices]
        for stack, indices in layers.items()
        if _name(stack) in layer_outputs
    }


def _name(stack: str) -> str:
    return f"{stack}_hidden_states"
