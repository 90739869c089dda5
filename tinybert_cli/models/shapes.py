"""The shape of a student: its four numbers, and which layers of a deeper model its own stand for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinybert_cli import config as settings
from tinybert_cli.errors import ConfigError, InputError, look_up
from tinybert_cli.models.families import FAMILIES, field_name, shape_of
from tinybert_cli.presets import PRESETS, Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def shape(setting: settings.Model, base_config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the model that `setting` asks for; the base's own is left alone. Needs no weights."""
    if is_unchanged(setting):
        return copy.deepcopy(base_config)
    base = shape_of(base_config)
    asked = _asked(setting, base)
    _check_heads(setting, asked.hidden_size, asked.num_attention_heads)
    if setting.initialize == "teacher" and asked != base:
        _check_fits(setting, asked, base)
        check_family(base_config)
    config = copy.deepcopy(base_config)
    for name, value in asdict(asked).items():
        setattr(config, field_name(config, name), value)
    if "pooler_hidden_size" in config.to_dict():  # DeBERTa
        config.pooler_hidden_size = asked.hidden_size
    if config.model_type == "electra":
        _set_electra_embeddings(setting, config, base)
    return config


def copied_layers(setting: settings.Model, rule: str | Sequence[int], base_config: PreTrainedConfig) -> list[int]:
    """The layer of the base, counted from 0, that each layer of the student is copied from; empty if none is.

    A student as deep as its base keeps every layer: then the rule is only about the teacher.
    """
    if setting.initialize == "random":
        return []
    layers = shape(setting, base_config).num_hidden_layers
    if is_unchanged(setting) or layers == base_config.num_hidden_layers:
        return list(range(layers))
    return layer_map(rule, layers, base_config.num_hidden_layers)


def layer_map(rule: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer the teacher layer that it stands for, counted from 0; a list in `rule` counts from 1."""
    key = ("layer_mapping",)
    if not isinstance(rule, str):
        if len(rule) != student_layers:
            raise ConfigError(
                f"layer_mapping has {len(rule)} entries, the student has {student_layers} layers",
                key=key,
                hint="one entry per student layer: the number of the teacher layer, counted from 1",
            )
        for number in rule:
            if not 1 <= number <= teacher_layers:
                raise ConfigError(
                    f"layer_mapping: there is no layer {number}", key=key, hint=f"the teacher has 1 to {teacher_layers}"
                )
        return [number - 1 for number in rule]
    pick = look_up(RULES, rule, "layer_mapping", key=key)
    if student_layers > teacher_layers:
        raise ConfigError(
            f"the student has more layers ({student_layers}) than its teacher ({teacher_layers})",
            key=key,
            hint=f"name a teacher layer for each of them: layer_mapping: [1, ..., {teacher_layers}]",
        )
    return [pick(index, student_layers, teacher_layers) for index in range(student_layers)]


def is_unchanged(setting: settings.Model) -> bool:
    """The model itself, which any family can be, whatever the numbers in its config are called."""
    return setting.initialize == "teacher" and setting.preset is None and not _numbers(setting)


def _asked(setting: settings.Model, base: Shape) -> Shape:
    preset = None if setting.preset is None else PRESETS[setting.preset]
    known = (asdict(preset) if preset else {}) | _numbers(setting)
    width = known.setdefault("hidden_size", base.hidden_size)
    head_size = base.hidden_size // base.num_attention_heads
    same_heads = width % head_size == 0
    known.setdefault("num_attention_heads", width // head_size if same_heads else base.num_attention_heads)
    known.setdefault("intermediate_size", max(1, round(base.intermediate_size * width / base.hidden_size)))
    known.setdefault("num_hidden_layers", base.num_hidden_layers)
    return Shape(**known)


def _numbers(setting: settings.Model) -> dict[str, int]:
    values = setting.model_dump()
    return {name: values[name] for name in Shape.__dataclass_fields__ if values[name] is not None}


def _key(setting: settings.Model, name: str) -> tuple[str]:
    """Where the user wrote the number."""
    return ("preset",) if name not in _numbers(setting) and setting.preset is not None else (name,)


def _check_heads(setting: settings.Model, width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(
            f"hidden_size {width} cannot be shared by {heads} heads",
            key=_key(setting, "hidden_size" if setting.hidden_size is not None else "num_attention_heads"),
            hint=f"it must be a multiple of num_attention_heads, such as {max(1, width // heads) * heads}",
        )


def _check_fits(setting: settings.Model, asked: Shape, base: Shape) -> None:
    limits = asdict(base)
    for name, value in asdict(asked).items():
        if value > limits[name]:
            raise ConfigError(
                f"{name} {value} is more than the {limits[name]} of `from`, where the weights come from",
                key=_key(setting, name),
                hint="take less, start from a larger model, or set initialize: random",
            )


def check_family(config: PreTrainedConfig) -> None:
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{config.model_type} models cannot be shrunk: their layers are not laid out like those of BERT",
            hint=f"families that can: {', '.join(FAMILIES)}; or set initialize: random",
        )


def _set_electra_embeddings(setting: settings.Model, config: Any, base: Shape) -> None:
    """ELECTRA projects its embeddings to the width, unless both are the same."""
    if config.embedding_size == base.hidden_size:
        config.embedding_size = config.hidden_size
    elif config.embedding_size == config.hidden_size and setting.initialize == "teacher":
        raise ConfigError(
            f"hidden_size {config.hidden_size} is this model's embedding size, and would take away its projection",
            key=_key(setting, "hidden_size"),
            hint="take another hidden_size, or set initialize: random",
        )


def _uniform(index: int, student_layers: int, teacher_layers: int) -> int:
    return round((index + 1) * teacher_layers / student_layers) - 1


def _spread(index: int, student_layers: int, teacher_layers: int) -> int:
    """The first, the last, and those evenly between; a single layer is the first."""
    return round(index * (teacher_layers - 1) / max(1, student_layers - 1))


RULES: dict[str, Callable[[int, int, int], int]] = {
    "uniform": _uniform,
    "spread": _spread,
    "first": lambda index, student_layers, teacher_layers: index,
    "last": lambda index, student_layers, teacher_layers: teacher_layers - student_layers + index,
}
