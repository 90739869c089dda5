"""The shape of a student: its four sizes, and the layer mapping to a deeper model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tinybert_cli import config as settings
from tinybert_cli.errors import ConfigError, InputError, look_up
from tinybert_cli.memory import free_memory
from tinybert_cli.models.capabilities import capability_table
from tinybert_cli.models.families import FAMILIES, field_name, known_family, shape_of
from tinybert_cli.models.family_settings import complete, setting_key
from tinybert_cli.presets import PRESETS, TRANSLATION_PRESETS, Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BYTES = 4  # of a weight in float32


def shape(setting: settings.Model, base_config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the model that `setting` describes, from the config of its base model, which is not changed.

    Raises:
        ConfigError: the sizes are not possible, or larger than those of the base model whose weights are to be copied.
        InputError: the family cannot be built in another size.
    """
    if is_unchanged(setting):
        return copy.deepcopy(base_config)
    base = shape_of(base_config)
    target = _target_shape(setting, base)
    _check_divisible(setting, target.hidden_size, target.num_attention_heads)
    if setting.initialize == "teacher" and target != base:
        _check_not_larger(setting, target, base)
        check_family(base_config)
    vocabulary = int(base_config.to_dict().get("vocab_size", 0))
    check_memory(setting, target.num_hidden_layers, target.hidden_size, target.intermediate_size, vocabulary)
    config = copy.deepcopy(base_config)
    for name, value in asdict(target).items():
        setattr(config, field_name(config, name), value)
    complete(setting, config, base_config, base)
    return config


def copied_layers(setting: settings.Model, rule: str | Sequence[int], base_config: PreTrainedConfig) -> list[int]:
    """The base layer, counted from 0, that each student layer is copied from; empty for random initialization.

    A student with as many layers as its base copies all of them; `rule` then only applies to the layer losses.

    Raises:
        ConfigError: the rule does not fit the number of layers, also where it is not applied: a list of another length
            is for another student.
    """
    layers = shape(setting, base_config).num_hidden_layers
    if not isinstance(rule, str):
        _check_count(rule, layers)
    if setting.initialize == "random":
        return []
    if is_unchanged(setting) or layers == base_config.num_hidden_layers:
        return list(range(layers))
    return layer_map(rule, layers, base_config.num_hidden_layers)


def layer_map(rule: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    """The teacher layer of each student layer, counted from 0.

    Args:
        rule: a key of RULES, or the teacher layers themselves, counted from 1.
        student_layers: their number.
        teacher_layers: their number.

    Raises:
        ConfigError: the rule is unknown or does not fit these numbers.
    """
    key = ("layer_mapping",)
    if not isinstance(rule, str):
        _check_count(rule, student_layers)
        for number in rule:
            if not 1 <= number <= teacher_layers:
                raise ConfigError(
                    f"layer_mapping: there is no layer {number}",
                    key=key,
                    hint=f"the teacher has layers 1 to {teacher_layers}",
                )
        return [number - 1 for number in rule]
    teacher_layer = look_up(RULES, rule, "layer_mapping", key=key)
    if student_layers > teacher_layers:
        raise ConfigError(
            f"the student has more layers ({student_layers}) than its teacher ({teacher_layers})",
            key=key,
            hint=f"list one teacher layer for each of them: layer_mapping: [1, ..., {teacher_layers}]",
        )
    return [teacher_layer(index, student_layers, teacher_layers) for index in range(student_layers)]


def _check_count(rule: Sequence[int], student_layers: int) -> None:
    if len(rule) != student_layers:
        raise ConfigError(
            f"layer_mapping has {len(rule)} entries, the student has {student_layers} layers",
            key=("layer_mapping",),
            hint="one entry per student layer: the number of the teacher layer, counted from 1",
        )


def is_unchanged(setting: settings.Model) -> bool:
    """Whether the student is its base model, unchanged; this works for any family."""
    return setting.initialize == "teacher" and setting.preset is None and not _given_sizes(setting)


def _target_shape(setting: settings.Model, base: Shape) -> Shape:
    """The sizes in `setting`, then those of its preset; the others follow from the base and the hidden size."""
    if setting.preset in TRANSLATION_PRESETS:
        raise ConfigError(
            f"the preset {setting.preset} is the shape of a translation model",
            key=("preset",),
            hint=f"one of: {', '.join(PRESETS)}",
        )
    preset = None if setting.preset is None else PRESETS[setting.preset]
    sizes = (asdict(preset) if preset else {}) | _given_sizes(setting)
    hidden_size = sizes.setdefault("hidden_size", base.hidden_size)
    head_dim = base.hidden_size // base.num_attention_heads
    same_head_dim = hidden_size % head_dim == 0
    sizes.setdefault("num_attention_heads", hidden_size // head_dim if same_head_dim else base.num_attention_heads)
    sizes.setdefault("intermediate_size", max(1, round(base.intermediate_size * hidden_size / base.hidden_size)))
    sizes.setdefault("num_hidden_layers", base.num_hidden_layers)
    return Shape(**sizes)


def _given_sizes(setting: settings.Model) -> dict[str, int]:
    values = setting.model_dump()
    return {name: values[name] for name in Shape.__dataclass_fields__ if values[name] is not None}


def _check_divisible(setting: settings.Model, hidden_size: int, heads: int) -> None:
    if hidden_size % heads:
        raise ConfigError(
            f"hidden_size ({hidden_size}) must be divisible by num_attention_heads ({heads})",
            key=setting_key(setting, "hidden_size" if setting.hidden_size is not None else "num_attention_heads"),
            hint=f"for example hidden_size: {max(1, hidden_size // heads) * heads}",
        )


def _check_not_larger(setting: settings.Model, target: Shape, base: Shape) -> None:
    limits = asdict(base)
    for name, value in asdict(target).items():
        if value > limits[name]:
            raise ConfigError(
                f"{name} ({value}) is larger than in the model `from` ({limits[name]}), whose weights are copied",
                key=setting_key(setting, name),
                hint="use a smaller value, start from a larger model, or set initialize: random",
            )


def check_memory(
    setting: settings.Model, layers: int, hidden_size: int, intermediate_size: int, vocabulary: int
) -> None:
    """ConfigError if the model needs more memory than is free; counted are layers and word embeddings."""
    layer = 4 * hidden_size**2 + 2 * hidden_size * intermediate_size
    needed = BYTES * (layers * layer + vocabulary * hidden_size)
    if needed > (free := free_memory()):
        raise ConfigError(
            f"a model of this shape needs {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free",
            key=setting_key(setting, "num_hidden_layers" if setting.hidden_size is None else "hidden_size"),
            hint="use a smaller hidden_size or fewer layers",
        )


def check_family(config: PreTrainedConfig) -> None:
    """InputError if models of this family cannot be shrunk."""
    if known_family(config) is None:
        raise InputError(
            f"{config.model_type} models cannot be shrunk: their layers are not structured like those of BERT\n"
            + capability_table(config.model_type, None),
            hint=f"supported families: {', '.join(FAMILIES)}; or set initialize: random",
        )


def _uniform(index: int, student_layers: int, teacher_layers: int) -> int:
    return round((index + 1) * teacher_layers / student_layers) - 1


def _spread(index: int, student_layers: int, teacher_layers: int) -> int:
    """Evenly spaced layers including the first and the last; a single layer is the first."""
    return round(index * (teacher_layers - 1) / max(1, student_layers - 1))


RULES: dict[str, Callable[[int, int, int], int]] = {
    "uniform": _uniform,
    "spread": _spread,
    "first": lambda index, student_layers, teacher_layers: index,
    "last": lambda index, student_layers, teacher_layers: teacher_layers - student_layers + index,
}
