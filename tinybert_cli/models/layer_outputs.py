"""What models say besides their logits: the states of their layers, which a student compares with its teacher's.

Shapes: B batch, T tokens, H width, A heads, D dimensions of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.models.cls_last_layer import compute_all_tokens
from tinybert_cli.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTED = {"queries": "query", "keys": "key", "values": "value"}  # answer → the field of Family
OF_SCORES = ("queries", "keys")


class Teacher:
    """A model that answers with the states of some of its layers; no gradients, no dropout, nothing above the last one.

    Args:
        model: any model that transformers has; it loses the layers above the last of `layers`.
        layers: which layers are compared, counted from 0.
        reads: what is wanted of them: embeddings, hidden_states, scores, queries, keys, values.

    Raises:
        InputError: the family hides its queries, keys and values.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], layer_outputs: frozenset[str]) -> None:
        check_readable(model, layer_outputs)
        compute_all_tokens(model)
        self.layers, self.layer_outputs = layers, layer_outputs
        self.width = int(model.config.hidden_size)
        self.body = model.base_model.eval().requires_grad_(False)
        if model.config.model_type in FAMILIES:
            del _layers(self.body)[max(layers) + 1 :]

    def __call__(self, batch: Mapping[str, Tensor], inputs: set[str]) -> dict[str, Any]:
        """What `reads` names, of every compared layer; `inputs` are the names in the batch that the model takes."""
        shown = {name: value for name, value in batch.items() if name in inputs}
        with torch.no_grad():
            return listen(self.body, shown, self.layers, self.layer_outputs)[1]


class Compared(Protocol):
    """What a student has to know of its teacher, whether that runs beside it or comes from disk."""

    @property
    def layer_outputs(self) -> frozenset[str]: ...
    @property
    def width(self) -> int: ...


class Student(torch.nn.Module):
    """A model in training that answers with the states of all its layers, brought to its teacher's width.

    The projections are learned with it and dropped with this wrapper: there are none where the widths are the same,
    one for all layers if they are `shared`, else one for the embeddings and one per layer. In eval mode it is the
    model, unless that has no head: its layers are all that it has to say.
    """

    def __init__(self, model: PreTrainedModel, teacher: Compared, *, shared: bool) -> None:
        super().__init__()
        check_readable(model, teacher.layer_outputs)
        compute_all_tokens(model)
        self.model, self.layer_outputs = model, teacher.layer_outputs
        self.has_head = model.base_model is not model
        self.layers = range(model.config.num_hidden_layers)
        width = int(model.config.hidden_size)
        count = 0 if width == teacher.width else 1 if shared else 1 + len(self.layers)
        self.projections = torch.nn.ModuleList(torch.nn.Linear(width, teacher.width) for _ in range(count))

    def forward(self, **inputs: Tensor) -> Mapping[str, Any]:
        if self.has_head and not self.training:
            return self.model(**inputs)  # type: ignore[no-any-return]
        said, states = listen(self.model, inputs, self.layers, self.layer_outputs)
        if "embeddings" in states:
            states["embeddings"] = self._project(0, states["embeddings"])
        if "hidden_states" in states:
            states["hidden_states"] = [self._project(1 + i, state) for i, state in enumerate(states["hidden_states"])]
        return said | states

    def _project(self, index: int, state: Tensor) -> Tensor:
        if not len(self.projections):
            return state
        projected: Tensor = self.projections[index % len(self.projections)](state)
        return projected


def listen(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], layers: Sequence[int], layer_outputs: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The logits that a model says, if it has a head, and what `reads` names of these layers."""
    with _listening(model.base_model, layers, layer_outputs) as heard:
        said = model(**inputs, output_hidden_states=True)
    found = {name: heard[name] for name in heard if name in layer_outputs}
    if "scores" in layer_outputs:
        found["scores"] = [_scores(*pair) for pair in zip(heard["queries"], heard["keys"], strict=True)]
    logits = {name: said[name] for name in said if name.endswith("logits")}
    return logits, found | _states(said.hidden_states, layers, layer_outputs)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """The raw attention scores (B, A, T, T), in float32 whatever the rest of the model is computed in."""
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = query.float() @ key.float().mT / query.shape[-1] ** 0.5
    return scores


def _states(outputs: Sequence[Tensor], layers: Sequence[int], layer_outputs: frozenset[str]) -> dict[str, Any]:
    """From what enters the first layer and leaves each one, all (B, T, H)."""
    found: dict[str, Any] = {}
    if "embeddings" in layer_outputs:
        found["embeddings"] = outputs[0]
    if "hidden_states" in layer_outputs:
        found["hidden_states"] = [outputs[1 + layer] for layer in layers]
    return found


@contextmanager
def _listening(body: torch.nn.Module, layers: Sequence[int], layer_outputs: frozenset[str]) -> Iterator[dict[str, Any]]:
    """While the model runs, the projections that `reads` asks for are kept: one (B, A, T, D) per layer.

    The attention itself may then be computed in any way, for it is not looked at.
    """
    wanted = [name for name in PROJECTED if name in layer_outputs or ("scores" in layer_outputs and name in OF_SCORES)]
    heard: dict[str, Any] = {name: [] for name in wanted}
    hooks = []
    for name in wanted:
        for layer in layers:
            config: Any = body.config
            module = _layers(body)[layer].get_submodule(getattr(FAMILIES[config.model_type], PROJECTED[name]))
            hooks.append(module.register_forward_hook(_keeper(heard[name], config.num_attention_heads)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _keeper(kept: list[Tensor], heads: int) -> Any:
    def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        batch, tokens, _ = output.shape
        kept.append(output.view(batch, tokens, heads, -1).transpose(1, 2))  # (B, T, A·D) → (B, A, T, D)

    return keep


def _layers(body: torch.nn.Module) -> Any:
    config: Any = body.config
    return body.get_submodule(FAMILIES[config.model_type].layers)


def check_readable(model: PreTrainedModel, layer_outputs: frozenset[str]) -> None:
    """InputError if the losses look into the attention of a family that hides it."""
    family = model.config.model_type
    if layer_outputs & {*PROJECTED, "scores"} and family not in FAMILIES:
        raise InputError(
            f"the attention of {family} models cannot be read: the losses attentions and relations need it",
            hint=f"leave these two out, or take one of {', '.join(FAMILIES)}",
        )
