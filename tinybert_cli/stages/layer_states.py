"""What gen_soft_labels and distill stand on for layer states on disk: which are kept, and whether a student has enough.

No stage of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import data, losses, models
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import ConfigError


@dataclass(frozen=True)
class LayerStateSpec:
    """What is kept of a teacher's layers."""

    net: models.ModelWithStates
    layers: list[int]  # counted from 0
    layer_outputs: frozenset[str]
    shapes: dict[str, tuple[int, ...]]  # of one token, or of a pair
    teacher_layers: int
    width: int

    def described(self) -> dict[str, Any]:
        """For the manifest; layers count from 1 there, as everywhere that people read."""
        return {
            "reads": sorted(self.layer_outputs),
            "layers": [layer + 1 for layer in self.layers],
            "teacher_layers": self.teacher_layers,
            "width": self.width,
        }


def layer_state_spec(config: GenSoftLabels, nets: Sequence[Any]) -> LayerStateSpec | None:
    """What the config asks to be kept of these teachers, of which exports are None; None if it is nothing.

    Raises:
        ConfigError: no such layers, or no teacher or several that could show any.
        InputError: this one does not show them.
    """
    if not config.states:
        return None
    if len(nets) > 1 or nets[0] is None:
        what = "an export shows nothing of its layers" if len(nets) == 1 else "several teachers have no common layers"
        raise ConfigError(what, key=("states",), hint="keep the states of one teacher, a model folder or Hub id")
    settings, layer_outputs = nets[0].config, losses.layer_outputs_of(config.states)
    count = int(settings.num_hidden_layers)
    asked = config.student_layers or len(config.layer_mapping)
    layers = models.layer_map(config.layer_mapping, asked, count)
    shapes = models.state_shapes(settings, len(layers), layer_outputs)
    net = models.ModelWithStates(nets[0], layers, layer_outputs)
    return LayerStateSpec(net, layers, layer_outputs, shapes, count, int(settings.hidden_size))


def missing_states(states: Mapping[str, Any], objective: losses.WeightedLoss, layers: Sequence[int]) -> str | None:
    """What a label dataset does not hold of what the losses compare, in words; `layers` count from 0."""
    for name in objective.parts:
        if name in losses.LAYER_OUTPUTS and not losses.layer_outputs_of([name]) <= {*states["reads"]}:
            return f"holds no states for the loss `{name}`, only {', '.join(states['reads'])}"
    missing = [str(layer + 1) for layer in layers if layer + 1 not in states["layers"]]
    if missing:
        there = ", ".join(map(str, states["layers"]))
        return f"holds no states of layer {', '.join(missing)} of the teacher, only of {there}"
    return None


def read(
    folder: Path, manifest: Mapping[str, Any], layer_outputs: frozenset[str], layers: Sequence[int]
) -> data.LayerStates:
    """The states of these layers, counted from 0, all of which are there."""
    there = manifest["states"]["layers"]
    places = [there.index(layer + 1) for layer in layers]
    files = [entry["path"] for entry in manifest["outputs"]]
    return data.read_states(folder, files, layer_outputs, None if places == list(range(len(there))) else places)
