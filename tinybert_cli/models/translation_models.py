"""Encoder-decoder models of transformers: loading, new ones, smaller students, and saving with generation settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli import config as settings
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.files import read_object
from tinybert_cli.input_limits import max_positions, max_target_length
from tinybert_cli.models.loading import load
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.model_configs import read_config
from tinybert_cli.models.saving import save_weights
from tinybert_cli.models.shapes import check_memory, layer_map
from tinybert_cli.presets import TRANSLATION_PRESETS, TranslationShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from tinybert_cli.translation_tokenizer import TranslationTokenizer

HEAD = "seq2seq-lm"
NEW_SHAPE = TranslationShape(4, 4, 128, 4, 256)  # Transformer-tiny of Wu et al. 2021, arXiv 2105.14462
NEW_VOCABULARY = 4000  # tokens of a new model: of 29,000 sentence pairs 1,000 to 4,000 are best (Gowda and May 2020)
POSITIONS = 512  # of a new model: its positions are sines, which cost nothing
DROPOUT = 0.1  # of a new model
STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class _Fields:
    """The names of the sizes in a config, and of the layers in a model."""

    num_hidden_layers: str = "encoder_layers"
    num_decoder_layers: str = "decoder_layers"
    hidden_size: str = "d_model"
    num_attention_heads: tuple[str, ...] = ("encoder_attention_heads", "decoder_attention_heads")
    intermediate_size: tuple[str, ...] = ("encoder_ffn_dim", "decoder_ffn_dim")
    layers: str = "model.{stack}.layers.{index}."
    first_layer_only: str = ""  # a part of a weight's name that only the first layer of a stack has


_BART = _Fields()
_T5 = _Fields(
    num_hidden_layers="num_layers",
    num_decoder_layers="num_decoder_layers",
    num_attention_heads=("num_heads",),
    intermediate_size=("d_ff",),
    layers="{stack}.block.{index}.",
    first_layer_only="relative_attention_bias",
)
FAMILIES: dict[str, _Fields] = {
    "marian": _BART, "bart": _BART, "mbart": _BART, "m2m_100": _BART, "t5": _T5, "mt5": _T5
}  # fmt: skip


def load_translation_model(source: Source, *, dropout: float | None = None, attention: str = "sdpa") -> PreTrainedModel:
    """An encoder-decoder model in float32 and eval mode, with the generation settings of its folder.

    Raises:
        InputError: the family is not supported, or the weights do not fit the config.
    """
    check_family(source)
    model = load(source, HEAD, dropout=dropout, attention=attention)
    file = fetch(source, weights=False) / "generation_config.json"
    if file.is_file():
        model.generation_config = _generation_config(file)
    return model


def check_family(source: Source) -> None:
    """InputError if the model is no encoder-decoder model, or of another family than those that can translate."""
    config = read_config(source)
    family = config["model_type"]
    if family not in FAMILIES:
        kind = "an encoder-decoder family that is not supported" if config.get("is_encoder_decoder") else "not one"
        raise InputError(
            f"translation needs an encoder-decoder model; '{source.name}' is a {family} model, {kind}",
            hint=f"supported families: {', '.join(FAMILIES)} (m2m_100 includes NLLB)",
        )


def new_translation_model(
    setting: settings.Model,
    tokenizer: TranslationTokenizer,
    *,
    positions: int,
    dropout: float | None,
    seed: int,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A Marian model with random weights; one embedding table for encoder, decoder and output.

    The defaults of MarianConfig belong to another model: here embeddings are scaled, and all weights have the standard
    deviation 1 / sqrt(hidden size), so that embeddings have unit variance. The first decoder input is the padding
    token, whose embedding is zero, as in Marian.
    """
    from transformers import MarianConfig, MarianMTModel

    sizes = _sizes(setting, NEW_SHAPE)
    check_memory(
        setting, sizes.num_hidden_layers + 2 * sizes.num_decoder_layers, sizes.hidden_size, sizes.intermediate_size,
        tokenizer.size,
    )  # fmt: skip
    probability = DROPOUT if dropout is None else dropout
    config = MarianConfig(
        vocab_size=tokenizer.size,
        d_model=sizes.hidden_size,
        encoder_layers=sizes.num_hidden_layers,
        decoder_layers=sizes.num_decoder_layers,
        encoder_attention_heads=sizes.num_attention_heads,
        decoder_attention_heads=sizes.num_attention_heads,
        encoder_ffn_dim=sizes.intermediate_size,
        decoder_ffn_dim=sizes.intermediate_size,
        activation_function="swish",
        dropout=probability,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        init_std=sizes.hidden_size**-0.5,
        max_position_embeddings=max(POSITIONS, positions),
        pad_token_id=tokenizer.padding,
        eos_token_id=tokenizer.end,
        bos_token_id=None,
        decoder_start_token_id=tokenizer.start,
        forced_eos_token_id=None,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = MarianMTModel(config).eval()
    model.generation_config.bad_words_ids = [[tokenizer.padding]]
    return model  # type: ignore[no-any-return]


def translation_student(
    setting: settings.Model,
    mapping: settings.LayerMapping,
    teacher: PreTrainedModel,
    *,
    seed: int,
    dropout: float | None = None,
) -> tuple[PreTrainedModel, dict[str, list[int]]]:
    """A model of the teacher's class in another shape, and the teacher layers it was copied from, counted from 1.

    `initialize: teacher` copies whole layers, those in `mapping`, and everything outside of the layers.

    Raises:
        ConfigError: the sizes are not possible, or another width is asked for with copied layers.
    """
    fields, base = FAMILIES[teacher.config.model_type], shape_of(teacher.config)
    sizes = _sizes(setting, base)
    random = setting.initialize == "random"
    for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
        if not random and getattr(sizes, name) != getattr(base, name):
            raise ConfigError(
                f"{name} ({getattr(sizes, name)}) differs from that of the model `from` ({getattr(base, name)}), whose "
                "layers are copied whole",
                key=(name,) if getattr(setting, name) is not None else ("preset",),
                hint="leave it out, or set initialize: random",
            )
    if not random and sizes == base:
        copies = {stack: list(range(count)) for stack, count in zip(STACKS, _depths(base), strict=True)}
        return teacher, {stack: [index + 1 for index in layers] for stack, layers in copies.items()}
    config = copy.deepcopy(teacher.config)
    for name, value in asdict(sizes).items():
        for field in _names(fields, name):
            setattr(config, field, value)
    if "d_kv" in config.to_dict() and _width(sizes) != _width(base):
        config.d_kv = sizes.hidden_size // sizes.num_attention_heads
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        student = type(teacher)(config).eval()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    if random:
        return student, {stack: [] for stack in STACKS}
    copies = stack_layers(mapping, sizes, base)
    student.load_state_dict(_with_layers(teacher.state_dict(), student.state_dict(), fields, copies))
    return student, {stack: [index + 1 for index in layers] for stack, layers in copies.items()}


def stack_layers(
    mapping: settings.LayerMapping, student: TranslationShape, teacher: TranslationShape
) -> dict[str, list[int]]:
    """For each stack the teacher's layer, counted from 0, of each of the student's layers.

    Raises:
        ConfigError: there are no such layers.
    """
    rules = settings.encoder_rule(mapping), settings.decoder_rule(mapping)
    return {
        stack: _copied(rule, count, of, stack)
        for stack, rule, count, of in zip(STACKS, rules, _depths(student), _depths(teacher), strict=True)
    }


def shape_of(config: PreTrainedConfig) -> TranslationShape:
    """The sizes in a config."""
    fields, values = FAMILIES[config.model_type], config.to_dict()
    names = TranslationShape.__dataclass_fields__
    return TranslationShape(**{name: int(values[_names(fields, name)[0]]) for name in names})


def zero_padding_row(model: PreTrainedModel) -> bool:
    """Makes the embedding of Marian's padding token zero and keeps it there during training; whether it was not zero.

    Marian starts the decoder with it, and other programs (Marian, CTranslate2) take it as zero. It is tied to the
    output layer, whose gradient would change it.
    """
    if model.config.model_type != "marian":
        return False
    weight, padding = model.get_input_embeddings().weight, model.config.pad_token_id
    changed = bool(weight[padding].any())
    with torch.no_grad():
        weight[padding] = 0

    def without_padding(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[padding] = 0
        return gradient

    weight.register_hook(without_padding)
    return changed


def shorten_positions(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """A copy of a Marian model for texts of at most `count` tokens; a model that has no more positions as it is.

    Other formats store the sines and cosines, which transformers computes: those of 512 tokens are 0.5 MB at 256 units.
    """
    if model.config.model_type != "marian" or model.config.max_position_embeddings <= count:
        return model
    shortened = copy.deepcopy(model)
    for stack in (shortened.get_encoder(), shortened.get_decoder()):
        weight = stack.embed_positions.weight[:count].clone()
        stack.embed_positions.weight = torch.nn.Parameter(weight, requires_grad=False)
        stack.embed_positions.num_embeddings = count
    shortened.config.max_position_embeddings = count
    return shortened


def save_translation_model(model: PreTrainedModel, tokenizer: TranslationTokenizer, folder: Path) -> None:
    """Writes a folder in the format of transformers: weights, config.json, generation_config.json, tokenizer files."""
    save_weights(model, folder)
    tokenizer.save(folder)


def check_positions(
    source_name: str, config: Mapping[str, Any], tokenizer: TranslationTokenizer, data: settings.Data
) -> None:
    """ConfigError if the model has too few positions for texts of `max_seq_length` or `max_target_length` tokens."""
    positions = max_positions(config)
    limits = {
        "max_seq_length": (positions, ""),
        "max_target_length": (
            max_target_length(config, len(tokenizer.prefix)),
            ", of which the special token before every translation takes one" if tokenizer.prefix else "",
        ),
    }
    for name, (most, reason) in limits.items():
        if most is not None and getattr(data, name) > most:
            raise ConfigError(
                f"`{name}` is {getattr(data, name)}, but '{source_name}' has positions for {positions} tokens{reason}",
                key=("data", name),
                hint=f"at most {most}",
            )


def _generation_config(file: Path) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_dict(read_object(file))
    except (ValueError, TypeError) as error:
        raise InputError(f"generation_config.json cannot be read: {error}", where=str(file)) from error


def _sizes(setting: settings.Model, base: TranslationShape) -> TranslationShape:
    """The sizes in `setting`, then those of its preset, then those of `base`; FFN and heads follow the width."""
    values = setting.model_dump()
    given = {name: values[name] for name in TranslationShape.__dataclass_fields__ if values[name] is not None}
    if setting.preset is not None:
        if setting.preset not in TRANSLATION_PRESETS:
            raise ConfigError(
                f"the preset {setting.preset} is the shape of an encoder",
                key=("preset",),
                hint=f"one of: {', '.join(TRANSLATION_PRESETS)}",
            )
        given = asdict(TRANSLATION_PRESETS[setting.preset]) | given
    hidden_size = given.get("hidden_size", base.hidden_size)
    given.setdefault("intermediate_size", max(1, round(base.intermediate_size * hidden_size / base.hidden_size)))
    sizes = TranslationShape(**(asdict(base) | given))
    heads = sizes.num_attention_heads
    if hidden_size % heads and _width(sizes) != _width(base):  # the heads of T5 have a size of their own, `d_kv`
        raise ConfigError(
            f"hidden_size ({hidden_size}) must be divisible by num_attention_heads ({heads})",
            key=("hidden_size",) if setting.hidden_size is not None else ("num_attention_heads",),
            hint=f"for example hidden_size: {max(1, hidden_size // heads) * heads}",
        )
    return sizes


def _depths(sizes: TranslationShape) -> tuple[int, int]:
    return sizes.num_hidden_layers, sizes.num_decoder_layers


def _width(sizes: TranslationShape) -> tuple[int, int]:
    return sizes.hidden_size, sizes.num_attention_heads


def _names(fields: _Fields, name: str) -> tuple[str, ...]:
    value: str | tuple[str, ...] = getattr(fields, name)
    return (value,) if isinstance(value, str) else value


def _copied(rule: settings.LayerRule, count: int, of: int, stack: str) -> list[int]:
    """The layers to copy, counted from 0; a stack of unchanged depth copies all of them."""
    if count == of and isinstance(rule, str):
        return list(range(count))
    try:
        return layer_map(rule, count, of)
    except ConfigError as error:
        raise ConfigError(f"{stack}: {error.what}", key=("layer_mapping", stack), hint=error.hint) from error


def _with_layers(
    teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], fields: _Fields, copies: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """The student's weights: of each layer those of its teacher layer, of everything else the teacher's."""
    origins = {
        fields.layers.format(stack=stack, index=index): fields.layers.format(stack=stack, index=layer)
        for stack, layers in copies.items()
        for index, layer in enumerate(layers)
    }
    first = {fields.layers.format(stack=stack, index=0) for stack in copies}
    weights = {}
    for key in student:
        prefix = next((prefix for prefix in origins if key.startswith(prefix)), None)
        if prefix is None or (fields.first_layer_only and prefix in first and fields.first_layer_only in key):
            weights[key] = teacher[key]
        else:
            weights[key] = teacher[origins[prefix] + key.removeprefix(prefix)]
    return weights
