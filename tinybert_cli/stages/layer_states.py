"""Layer states on disk: which ones gen-soft-labels stores, and whether a label dataset has all that distill needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import data, losses, models
from tinybert_cli.config import GenSoftLabels, encoder_rule
from tinybert_cli.errors import ConfigError


@dataclass(frozen=True)
class LayerStateSpec:
    """The layer outputs of a teacher that are stored."""

    net: models.ModelWithStates
    layers: list[int]  # counted from 0
    layer_outputs: frozenset[str]
    shapes: dict[str, tuple[int, ...]]  # of one token, or of a pair of tokens
    teacher_layers: int
    hidden_size: int

    def for_manifest(self) -> dict[str, Any]:
        """Layers count from 1 there, as in configs and messages."""
        return {
            "reads": sorted(self.layer_outputs),
            "layers": [layer + 1 for layer in self.layers],
            "teacher_layers": self.teacher_layers,
            "width": self.hidden_size,
        }


def layer_state_spec(config: GenSoftLabels, teachers: Sequence[Any]) -> LayerStateSpec | None:
    """The states to store of these teachers, None for an export; None if the config asks for none.

    Raises:
        ConfigError: there are no such layers, or several teachers, or an export.
        InputError: the attention of this family cannot be read.
    """
    if not config.states:
        return None
    if len(teachers) > 1 or teachers[0] is None:
        what = "an export has no layer outputs" if len(teachers) == 1 else "several teachers have no common layers"
        raise ConfigError(what, key=("states",), hint="store the states of one teacher, a model folder or Hub id")
    settings, layer_outputs = teachers[0].config, losses.layer_outputs_of(config.states)
    teacher_layers = int(settings.num_hidden_layers)
    rule = encoder_rule(config.layer_mapping)
    student_layers = config.student_layers or len(rule)
    layers = models.layer_map(rule, student_layers, teacher_layers)
    return LayerStateSpec(
        models.ModelWithStates(teachers[0], layers, layer_outputs),
        layers,
        layer_outputs,
        models.state_shapes(settings, len(layers), layer_outputs),
        teacher_layers,
        int(settings.hidden_size),
    )


def missing_states(states: Mapping[str, Any], loss: losses.WeightedLoss, layers: Sequence[int]) -> str | None:
    """What a label dataset lacks for these losses and layers (counted from 0), in words; None if it has everything.

    Args:
        states: the entry of its manifest.
    """
    for name in loss.parts:
        if name in losses.LAYER_OUTPUTS and not losses.layer_outputs_of([name]) <= {*states["reads"]}:
            return f"has no states for the loss `{name}`, only {', '.join(states['reads'])}"
    missing = [str(layer + 1) for layer in layers if layer + 1 not in states["layers"]]
    if missing:
        stored = ", ".join(map(str, states["layers"]))
        return f"has no states of layer {', '.join(missing)} of the teacher, only of {stored}"
    return None


def read(
    folder: Path, manifest: Mapping[str, Any], layer_outputs: frozenset[str], layers: Sequence[int]
) -> data.LayerStates:
    """The stored states of these layers, counted from 0, all of which exist."""
    stored = manifest["states"]["layers"]
    indices = [stored.index(layer + 1) for layer in layers]
    files = [entry["path"] for entry in manifest["outputs"]]
    return data.read_states(folder, files, layer_outputs, None if indices == list(range(len(stored))) else indices)
