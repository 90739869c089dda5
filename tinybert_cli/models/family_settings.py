"""Settings of a student's config that follow from its four sizes and its layers, where families differ from BERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinybert_cli import config as settings
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.models.capabilities import capability_table
from tinybert_cli.models.families import Family, known_family
from tinybert_cli.presets import Shape


def complete(setting: settings.Model, config: Any, base_config: Any, base: Shape) -> None:
    """Changes `config`, which has the student's four sizes, so that all its other settings fit them.

    Raises:
        ConfigError: the hidden size is that of the embeddings, so their projection would disappear.
        InputError: the family cannot have these sizes: heads that keep theirs, a convolution in groups.
    """
    family = known_family(config)
    values = config.to_dict()
    if family is not None and family.fixed_head_size and setting.initialize == "teacher":
        _check_head_size(setting, config, base, family)
    if values.get("conv_groups", 1) > 1 and config.hidden_size != base.hidden_size and setting.initialize == "teacher":
        raise InputError(
            f"`conv_groups` is {values['conv_groups']}: a convolution in groups of units cannot be made narrower",
            hint="do not set hidden_size, or set initialize: random",
        )
    if "pooler_hidden_size" in values:  # DeBERTa
        config.pooler_hidden_size = config.hidden_size
    if "attention_head_size" in values:  # DeBERTa-v2
        config.attention_head_size = config.hidden_size // config.num_attention_heads
    if family is not None and family.embedding_projection and not family.shares_layers and "embedding_size" in values:
        _set_embedding_size(setting, config, base)
    if "layer_types" in values:  # ModernBERT
        config.layer_types = _repeated(base_config.layer_types, config.num_hidden_layers)
        _set_interval(config)
    if family is not None and family.shares_layers:
        own_weights = setting.initialize == "teacher" or base_config.num_hidden_groups > 1
        config.num_hidden_groups = config.num_hidden_layers if own_weights else 1


def with_layers(config: Any, base_config: Any, mapping: Sequence[int]) -> Any:
    """The config of a model that has these layers of its base; `config` itself if their order does not matter."""
    if mapping and "layer_types" in config.to_dict():
        config.layer_types = [base_config.layer_types[index] for index in mapping]
        _set_interval(config)
    return config


def setting_key(setting: settings.Model, name: str) -> tuple[str]:
    """The setting that a size comes from."""
    return ("preset",) if setting.model_dump()[name] is None and setting.preset is not None else (name,)


def _check_head_size(setting: settings.Model, config: Any, base: Shape, family: Family) -> None:
    size = base.hidden_size // base.num_attention_heads
    if config.hidden_size != size * config.num_attention_heads:
        nearest = size * max(1, config.hidden_size // size)
        named = "num_attention_heads" if setting.num_attention_heads is not None else "hidden_size"
        (key,) = setting_key(setting, named)
        raise InputError(
            f"`{key}`: the heads of {family.title} keep their size, {size}, because positions rotate pairs of their "
            f"dimensions; hidden_size {config.hidden_size} with {config.num_attention_heads} heads has another one\n"
            + capability_table(config.model_type, family),
            hint=f"hidden_size: {nearest} with num_attention_heads: {nearest // size}; or set initialize: random",
        )


def _set_embedding_size(setting: settings.Model, config: Any, base: Shape) -> None:
    """ELECTRA and DeBERTa project their embeddings to the hidden size, unless both sizes are equal."""
    if config.embedding_size == base.hidden_size:
        config.embedding_size = config.hidden_size
    elif config.embedding_size == config.hidden_size and setting.initialize == "teacher":
        raise ConfigError(
            f"hidden_size {config.hidden_size} is the embedding size of this model, so its projection would be removed",
            key=setting_key(setting, "hidden_size"),
            hint="use another hidden_size, or set initialize: random",
        )


def _set_interval(config: Any) -> None:
    """The distance between global layers, which transformers 4 reads instead of `layer_types`; 0 if it varies, with
    which transformers 4 stops, because its default would be wrong."""
    is_global = [kind == "full_attention" for kind in config.layer_types]
    config.global_attn_every_n_layers = next(
        (
            interval
            for interval in range(1, len(is_global) + 1)
            if is_global == [index % interval == 0 for index in range(len(is_global))]
        ),
        0,
    )


def _repeated(types: Sequence[str], layers: int) -> list[str]:
    """The types of `layers` layers, with the period of the given ones."""
    period = next(p for p in range(1, len(types) + 1) if all(types[i] == types[i % p] for i in range(len(types))))
    return [types[index % period] for index in range(layers)]
