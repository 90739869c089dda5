"""Intermediate outputs (hidden states, attention scores, Q/K/V) of teacher and student.

Names of layer outputs: embeddings (the input of the first layer), hidden_states, scores (QK^T / sqrt(D) before
softmax), queries, keys, values. `types.ModelOutputs` gives their shapes.

Shapes: B batch, T tokens, H hidden size, A attention heads, D head dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.models.cls_last_layer import compute_all_tokens
from tinybert_cli.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}  # layer output → the field of Family
SCORE_INPUTS = ("queries", "keys")


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
        check_attention_access(model, layer_outputs)
        compute_all_tokens(model)
        self.base_model = model.base_model.eval().requires_grad_(False)
        if model.config.model_type in FAMILIES:
            del _layers(self.base_model)[max(layers) + 1 :]

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
        check_attention_access(model, teacher.layer_outputs)
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
    with _captured_projections(model.base_model, layers, layer_outputs) as projections:
        outputs = model(**inputs, output_hidden_states=True)
    captured = {name: projections[name] for name in projections if name in layer_outputs}
    if "scores" in layer_outputs:
        captured["scores"] = [_scores(*pair) for pair in zip(projections["queries"], projections["keys"], strict=True)]
    logits = {name: outputs[name] for name in outputs if name.endswith("logits")}
    return logits, captured | _states(outputs.hidden_states, layers, layer_outputs)


def check_attention_access(model: PreTrainedModel, layer_outputs: frozenset[str]) -> None:
    """InputError if the losses need attention scores, queries, keys or values that this family does not expose."""
    family = model.config.model_type
    if layer_outputs & {*PROJECTIONS, "scores"} and family not in FAMILIES:
        raise InputError(
            f"the attention of {family} models cannot be read, but the losses attentions and relations need it",
            hint=f"remove these two losses, or use one of {', '.join(FAMILIES)}",
        )


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """The raw attention scores (B, A, T, T), in float32 even under autocast."""
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = query.float() @ key.float().mT / query.shape[-1] ** 0.5
    return scores


def _states(hidden_states: Sequence[Tensor], layers: Sequence[int], layer_outputs: frozenset[str]) -> dict[str, Any]:
    """Select from the input of the first layer and the outputs of all layers, each (B, T, H)."""
    states: dict[str, Any] = {}
    if "embeddings" in layer_outputs:
        states["embeddings"] = hidden_states[0]
    if "hidden_states" in layer_outputs:
        states["hidden_states"] = [hidden_states[1 + layer] for layer in layers]
    return states


@contextmanager
def _captured_projections(
    base_model: torch.nn.Module, layers: Sequence[int], layer_outputs: frozenset[str]
) -> Iterator[dict[str, Any]]:
    """Hooks that store queries, keys and values while the model runs: one (B, A, T, D) per layer.

    The attention scores are recomputed from them, so the fast attention kernel stays in use.
    """
    names = [
        name for name in PROJECTIONS if name in layer_outputs or ("scores" in layer_outputs and name in SCORE_INPUTS)
    ]
    captured: dict[str, Any] = {name: [] for name in names}
    hooks = []
    for name in names:
        for layer in layers:
            config: Any = base_model.config
            path = getattr(FAMILIES[config.model_type], PROJECTIONS[name])
            module = _layers(base_model)[layer].get_submodule(path)
            hooks.append(module.register_forward_hook(_append_to(captured[name], config.num_attention_heads)))
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


def _append_to(captured: list[Tensor], heads: int) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        batch, tokens, _ = output.shape
        captured.append(output.view(batch, tokens, heads, -1).transpose(1, 2))  # (B, T, A·D) → (B, A, T, D)

    return hook


def _layers(base_model: torch.nn.Module) -> Any:
    config: Any = base_model.config
    return base_model.get_submodule(FAMILIES[config.model_type].layers)
