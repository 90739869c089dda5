"""The teacher whose hidden states a student translator is compared with: beside the student, or stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinybert_cli import artifacts, data, loops, models
from tinybert_cli.config import Distill, GenSoftLabels, decoder_rule, encoder_rule
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Encoded

NAMES = ("encoder_hidden_states", "decoder_hidden_states")
_NOTHING, _FROM_ZERO = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
NO_PAIRS = Encoded({"input_ids": (_NOTHING, 0)}, _FROM_ZERO, 0, [], window_offsets=_FROM_ZERO, labels=_NOTHING)
"""What is stored of a shard whose rows are all left out."""
BATCH_SIZE = 32  # rows of a batch whose states are stored


@dataclass(frozen=True)
class StackStateSpec:
    """The states of a teacher that are stored."""

    model: Any
    layers: Mapping[str, list[int]]  # stack → layers, counted from 0

    def store(self, encoded: Encoded, folder: Path, shard: str) -> None:
        """Writes the states of these pairs into the folder."""
        width, examples = int(self.model.config.hidden_size), data.Examples.of(encoded)
        shapes = {f"{stack}_hidden_states": (len(layers), width) for stack, layers in self.layers.items()}
        writer = data.StackStatesWriter(folder, shard, encoded, shapes)
        batches = data.sorted_batches(examples.target_lengths, BATCH_SIZE) if len(examples) else []
        net = models.ModelWithStackStates(self.model, self.layers)
        for windows, states in loops.predict_outputs(net, examples, batches, NAMES):
            writer.write(windows, states)

    def for_manifest(self) -> dict[str, Any]:
        """Layers count from 1 there, as in configs and messages."""
        layers = {f"{stack}_layers": [layer + 1 for layer in indices] for stack, indices in self.layers.items()}
        counts = {f"teacher_{stack}_layers": count for stack, count in models.depths(self.model.config).items()}
        return {"reads": list(NAMES), **layers, **counts, "width": int(self.model.config.hidden_size)}


def state_spec(config: GenSoftLabels, model: Any) -> StackStateSpec | None:
    """The states to store of this teacher, None for an export; None if the config asks for none.

    Raises:
        ConfigError: there are no such layers, or the teacher is an export.
    """
    if not config.states:
        return None
    if model is None:
        raise ConfigError("an export has no layer outputs", key=("states",), hint="name the model folder")
    layers, rules = {}, (encoder_rule(config.layer_mapping), decoder_rule(config.layer_mapping))
    for (stack, count), rule in zip(models.depths(model.config).items(), rules, strict=True):
        try:
            layers[stack] = models.layer_map(rule, len(rule), count)
        except ConfigError as error:
            raise ConfigError(f"{stack}: {error.what}", key=("layer_mapping", stack), hint=error.hint) from error
    return StackStateSpec(model, layers)


def read_stored(config: Distill, layer_outputs: frozenset[str]) -> data.StackStates | None:
    """The states of all stored layers of the label dataset; None if it has none for these targets."""
    folder = Path(str(config.label_dataset))
    manifest = artifacts.read_manifest(folder)
    if not layer_outputs or "states" not in manifest or config.targets != "teacher":
        return None
    files = [entry["path"] for entry in manifest["outputs"]]
    return data.read_stack_states(folder, files, sorted(layer_outputs))


def stored_teacher(
    config: Distill, states: data.StackStates, student: Any
) -> tuple[models.StackTeacher, data.StackStates] | str:
    """The teacher that reads the stored states, and the states of the compared layers; or what is missing, in words."""
    stored = artifacts.read_manifest(Path(str(config.label_dataset)))["states"]
    shape = models.shape_of(student.config)
    teacher = replace(
        shape,
        num_hidden_layers=stored["teacher_encoder_layers"],
        num_decoder_layers=stored["teacher_decoder_layers"],
    )
    layers = models.stack_layers(config.layer_mapping, shape, teacher)
    indices: dict[str, list[int]] = {}
    for name in states.states:
        stack = name.partition("_")[0]
        available: list[int] = stored[f"{stack}_layers"]
        missing = [str(layer + 1) for layer in layers[stack] if layer + 1 not in available]
        if missing:
            has = ", ".join(map(str, available))
            return f"has no states of layer {', '.join(missing)} of the teacher's {stack}, only of {has}"
        indices[name] = [available.index(layer + 1) for layer in layers[stack]]
    return models.StoredStackTeacher(layers, frozenset(indices), stored["width"]), states.of_layers(indices)


def load(
    config: Distill,
    source: models.Source,
    student: Any,
    tokenizer: TranslationTokenizer,
    layer_outputs: frozenset[str],
    device: torch.device,
) -> models.StackTeacher:
    """The teacher that runs beside the student, on the device of this process.

    Raises:
        ConfigError: the teacher has other languages or fewer positions, or has no such layers.
        InputError: it is no translation model, or has another tokenizer.
    """
    models.check_family(source)
    own = models.load_translation_tokenizer(
        source, source_language=config.data.source_language, target_language=config.data.target_language
    )
    models.check_positions(source.name, models.read_config(source), own, config.data)
    difference = models.translation_tokenizer_difference(own, tokenizer, both_sides=True)
    if difference is not None:
        raise InputError(
            f"teacher and student split text differently, so their layers cannot be compared: {difference}",
            where=source.name,
            hint="take a student with the teacher's tokenizer, or only the loss hard_labels",
        )
    model = models.load_translation_model(source).to(device)
    layers = models.stack_layers(config.layer_mapping, models.shape_of(student.config), models.shape_of(model.config))
    return models.LiveStackTeacher(model, layers, layer_outputs)


def facts(teacher: models.StackTeacher) -> dict[str, Any]:
    """For the plan and the manifest: the compared layers, from 1, and where their states come from."""
    layers = {stack: [layer + 1 for layer in indices] for stack, indices in teacher.layers.items()}
    return {
        "layers_compared_with": layers["encoder"] if "encoder_hidden_states" in teacher.layer_outputs else [],
        "decoder_layers_compared_with": layers["decoder"] if "decoder_hidden_states" in teacher.layer_outputs else [],
        "teacher_states": "stored" if isinstance(teacher, models.StoredStackTeacher) else "running beside it",
    }
