"""The teacher whose hidden states a student translator is compared with."""

from __future__ import annotations

from typing import Any

import torch

from tinybert_cli import models
from tinybert_cli.config import Distill
from tinybert_cli.errors import InputError
from tinybert_cli.translation_tokenizer import TranslationTokenizer


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
    models.check_positions(source.name, models.read_config(source), config.data)
    own = models.load_translation_tokenizer(
        source, source_language=config.data.source_language, target_language=config.data.target_language
    )
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


def facts(teacher: models.StackTeacher, *, stored: bool = False) -> dict[str, Any]:
    """For the plan and the manifest: the compared layers, from 1, and where their states come from."""
    layers = {stack: [layer + 1 for layer in indices] for stack, indices in teacher.layers.items()}
    return {
        "layers_compared_with": layers["encoder"] if "encoder_hidden_states" in teacher.layer_outputs else [],
        "decoder_layers_compared_with": layers["decoder"] if "decoder_hidden_states" in teacher.layer_outputs else [],
        "teacher_states": "stored" if stored else "running beside it",
    }
