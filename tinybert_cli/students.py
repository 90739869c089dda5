"""Building students: which layers, hidden units, heads and neurons of a teacher its smaller copy keeps.

Shapes: H width (hidden units), A heads, D dimensions of one head, F feed-forward neurons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli import config as settings
from tinybert_cli.errors import ConfigError, InputError, look_up

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Tensors = dict[str, torch.Tensor]
Axes = tuple[str, ...]  # what each dimension of a weight runs over; a bias runs over the first


@dataclass(frozen=True)
class Shape:
    """The four numbers of a BERT-class model."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class Family:
    """Where a family of models keeps its parts: module names, without the prefix of the base model."""

    layers: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    norms: tuple[str, str]
    elsewhere: Mapping[str, Axes]

    def axes(self, key: str) -> Axes:
        """What the dimensions of a weight inside a layer run over."""
        module = key.rpartition(".")[0]
        if module in self.norms:
            return ("units",)
        reads = {self.query: "heads", self.key: "heads", self.value: "heads", self.up: "neurons"}
        writes = {self.output: "heads", self.down: "neurons"}
        return (reads[module], "units") if module in reads else ("units", writes[module])


def check(setting: Mapping[str, Any] | str) -> None:
    """ConfigError if `preset` names no shape that is known."""
    if not isinstance(setting, str) and setting.get("preset") is not None:
        look_up(PRESETS, setting["preset"], "preset", key=("preset",))


def shape(setting: settings.Model, base_config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the model that `setting` asks for; the base's own is left alone. Needs no weights."""
    if _is_as_it_is(setting):
        return copy.deepcopy(base_config)
    base = _shape_of(base_config)
    asked = _asked(setting, base)
    _check_heads(setting, asked.hidden_size, asked.num_attention_heads)
    if setting.initialize == "teacher" and asked != base:
        _check_fits(setting, asked, base)
        _check_family(base_config)
    config = copy.deepcopy(base_config)
    for name, value in asdict(asked).items():
        setattr(config, _field(config, name), value)
    if "pooler_hidden_size" in config.to_dict():  # DeBERTa
        config.pooler_hidden_size = asked.hidden_size
    if config.model_type == "electra":
        _set_electra_embeddings(setting, config, base)
    return config


def mapping(setting: settings.Model, rule: str | Sequence[int], base_config: PreTrainedConfig) -> list[int]:
    """`layer_map` for this student of this base; empty if nothing is copied."""
    if setting.initialize == "random":
        return []
    return layer_map(rule, shape(setting, base_config).num_hidden_layers, base_config.num_hidden_layers)


def layer_map(rule: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer the teacher layer it is copied from, counted from 0; a list in `rule` counts from 1."""
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


def build(
    setting: settings.Model, teacher_model: PreTrainedModel, mapping: Sequence[int], *, seed: int
) -> PreTrainedModel:
    """A model of the teacher's class in the shape of `setting`, in eval mode, with the teacher's labels.

    `initialize: random` draws every weight from the config's distribution. `teacher` copies the layers in `mapping`
    and, where they are narrower, keeps what adds most to the residual stream, judged by the weights alone:

    * hidden units, one set for the whole model: the energy gamma^2 + beta^2 that the layer norms give them. What
      leaves a layer norm has unit variance before gamma, so this is each unit's share of what the layers read.
    * heads: ||W_O W_V||, the size of what a head can write; a dropped head's constant part moves into the bias.
    * neurons: ||w_in|| ||w_out||, in the units that are left.
    * dimensions of a head: the best approximation of W_Q' W_K and W_O W_V of that rank (Eckart and Young 1936); the
      queries are scaled so that the scores, which are divided by sqrt(D), keep their size. Larger heads are filled
      up with dimensions that change nothing yet.

    """
    config, teacher_config = shape(setting, teacher_model.config), teacher_model.config
    student = _fresh(type(teacher_model), config, seed)
    if setting.initialize == "random":
        return student.eval()
    weights = {key: tensor.detach().cpu().float() for key, tensor in teacher_model.state_dict().items()}
    if not (_is_as_it_is(setting) and list(mapping) == list(range(teacher_config.num_hidden_layers))):
        _check_family(config)
        prefix = f"{teacher_model.base_model_prefix}."
        bare = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        narrowed = _narrow(bare, _shape_of(teacher_config), config, mapping, seed)
        weights = {key: narrowed[key.removeprefix(prefix)] for key in student.state_dict()}
    student.load_state_dict(weights)
    return student.eval()


def _is_as_it_is(setting: settings.Model) -> bool:
    """The model itself, which any family can be, whatever the numbers in its config are called."""
    return setting.initialize == "teacher" and setting.preset is None and not _numbers(setting)


def _shape_of(config: PreTrainedConfig) -> Shape:
    values = config.to_dict()
    fields = {name: _field(config, name) for name in Shape.__dataclass_fields__}
    if not values.keys() >= set(fields.values()):
        raise InputError(
            f"{config.model_type} models cannot be built in another size: their config has other numbers",
            hint=f"families that can: {', '.join(FAMILIES)}",
        )
    return Shape(**{name: int(values[field]) for name, field in fields.items()})


def _field(config: PreTrainedConfig, name: str) -> str:
    if config.model_type == "distilbert" and name == "intermediate_size":
        return "hidden_dim"  # the one name that its attribute_map leaves out
    return str(config.attribute_map.get(name, name))


def _asked(setting: settings.Model, base: Shape) -> Shape:
    preset = look_up(PRESETS, setting.preset, "preset", key=("preset",)) if setting.preset is not None else None
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


def _check_family(config: PreTrainedConfig) -> None:
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


def _fresh(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model_class(config)


def _narrow(weights: Tensors, base: Shape, config: PreTrainedConfig, mapping: Sequence[int], seed: int) -> Tensors:
    """The student's weights by the names of the teacher's, both without the prefix of the base model."""
    family = FAMILIES[config.model_type]
    student = _shape_of(config)
    energy = _unit_energy(family, weights, base)
    units = _strongest(energy, student.hidden_size)
    narrowed = {
        key: _select(tensor, _axes_elsewhere(family, key, weights, units, base), {"units": units})
        for key, tensor in weights.items()
        if not key.startswith(f"{family.layers}.")
    }
    generator = torch.Generator().manual_seed(seed)
    for number, teacher_number in enumerate(mapping):
        prefix = f"{family.layers}.{teacher_number}."
        layer = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        layer = {key: _select(tensor, family.axes(key), {"units": units}) for key, tensor in layer.items()}
        layer |= _narrow_attention(layer, family, base, student, energy[units].sqrt(), generator)
        layer |= _narrow_neurons(layer, family, student, energy[units].sqrt())
        narrowed |= {f"{family.layers}.{number}.{key}": tensor for key, tensor in layer.items()}
    return narrowed


def _unit_energy(family: Family, weights: Tensors, base: Shape) -> torch.Tensor:
    """(H): each unit's share of the energy after a layer norm, averaged over all norms of the residual stream."""
    shares = []
    for key, gamma in weights.items():
        if key.endswith(("norm.weight", "Norm.weight")) and gamma.numel() == base.hidden_size:
            energy = gamma.double() ** 2 + weights[key.replace("weight", "bias")].double() ** 2
            shares.append(energy / energy.mean())
    return torch.stack(shares).mean(dim=0)


def _strongest(strength: torch.Tensor, count: int) -> torch.Tensor:
    """The positions of the `count` largest, in their old order; of equal ones the first."""
    return strength.argsort(descending=True, stable=True)[:count].sort().values


def _select(tensor: torch.Tensor, axes: Axes, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
    for dimension, axis in enumerate(axes[: tensor.dim()]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor


def _axes_elsewhere(family: Family, key: str, weights: Tensors, units: torch.Tensor, base: Shape) -> Axes:
    module = key.rpartition(".")[0]
    if len(units) == base.hidden_size:
        return ()
    if module not in family.elsewhere:
        raise InputError(
            f"'{key}' cannot be narrowed: this kind of head is not known", hint="leave hidden_size as it is"
        )
    if "embeddings_project.weight" in weights and module.startswith("embeddings."):
        return ()  # the embeddings keep their own, smaller width
    return family.elsewhere[module]


def _narrow_attention(
    layer: Tensors, family: Family, base: Shape, student: Shape, scale: torch.Tensor, generator: torch.Generator
) -> Tensors:
    """The strongest heads; `scale` (H) is how large each unit is that the layer reads."""
    heads, old_size = base.num_attention_heads, base.hidden_size // base.num_attention_heads
    size = student.hidden_size // student.num_attention_heads
    if heads == student.num_attention_heads and size == old_size:
        return {}
    query, key, value = (
        torch.cat([layer[f"{name}.weight"], layer[f"{name}.bias"][:, None]], dim=1).view(heads, old_size, -1).double()
        for name in (family.query, family.key, family.value)
    )  # (A, D, H + 1): the bias is one more input, which is always 1
    output = layer[f"{family.output}.weight"].T.reshape(heads, old_size, -1).double()  # (A, D, H)
    inputs = torch.cat([scale, scale.new_ones(1)])

    seen = value[..., :-1] * scale
    strength = ((output @ output.mT) * (seen @ seen.mT)).sum(dim=(1, 2)).clamp_min(0.0)  # ||W_O W_V||^2
    kept = _strongest(strength, student.num_attention_heads)
    constant = torch.einsum("adh,ad->ah", output, value[..., -1])  # what a head writes whatever it looks at
    bias = layer[f"{family.output}.bias"] + (constant.sum(dim=0) - constant[kept].sum(dim=0)).float()

    query, key, value, output = (part[kept] for part in (query, key, value, output))
    if size < old_size:
        query, key = (factor / inputs for factor in _lower_rank(query * inputs, key * inputs, size))
        output, value = _lower_rank(output, value * inputs, size)
        value = value / inputs
    elif size > old_size:
        query, value = (_fill_up(part, size, 0.02, generator) for part in (query, value))
        key, output = (_fill_up(part, size, 0.0, generator) for part in (key, output))
    query = query * (size / old_size) ** 0.5
    narrowed = {f"{family.output}.weight": output.flatten(0, 1).T.float().contiguous(), f"{family.output}.bias": bias}
    for name, part in ((family.query, query), (family.key, key), (family.value, value)):
        rows = part.flatten(0, 1).float()
        narrowed |= {f"{name}.weight": rows[:, :-1].contiguous(), f"{name}.bias": rows[:, -1].contiguous()}
    return narrowed


def _lower_rank(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (A, size, ...) whose product left' right is the nearest to that of the factors (A, D, ...)."""
    left_basis, left_rest = torch.linalg.qr(left.mT)
    right_basis, right_rest = torch.linalg.qr(right.mT)
    left_turn, strength, right_turn = torch.linalg.svd(left_rest @ right_rest.mT)
    root = strength[:, None, :size].sqrt()
    new_left = (left_basis @ left_turn[..., :size]) * root
    new_right = (right_basis @ right_turn.mT[..., :size]) * root
    return new_left.mT, new_right.mT


def _fill_up(part: torch.Tensor, size: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """More dimensions per head; with zeros on the other side of the product they change nothing, but can learn."""
    more = torch.randn(part.shape[0], size - part.shape[1], part.shape[2], generator=generator, dtype=part.dtype)
    return torch.cat([part, std * more], dim=1)


def _narrow_neurons(layer: Tensors, family: Family, student: Shape, scale: torch.Tensor) -> Tensors:
    reads = (layer[f"{family.up}.weight"].double() * scale).norm(dim=1)
    writes = layer[f"{family.down}.weight"].double().norm(dim=0)
    kept = {"neurons": _strongest(reads * writes, student.intermediate_size)}
    names = (f"{family.up}.weight", f"{family.up}.bias", f"{family.down}.weight")
    return {name: _select(layer[name], family.axes(name), kept) for name in names}


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

# Shapes of published students, from the config.json of their checkpoints.
PRESETS = {
    "tinybert-4l-312": Shape(4, 312, 12, 1200),  # Jiao et al. 2020, arXiv 1909.10351
    "tinybert-6l-768": Shape(6, 768, 12, 3072),
    "distilbert-6l-768": Shape(6, 768, 12, 3072),  # Sanh et al. 2019, arXiv 1910.01108
    "minilm-6l-384": Shape(6, 384, 12, 1536),  # Wang et al. 2020, arXiv 2002.10957
    "minilm-12l-384": Shape(12, 384, 12, 1536),
    "xtremedistil-6l-256": Shape(6, 256, 8, 1024),  # Mukherjee et al. 2021, arXiv 2106.04563
    "bert-tiny": Shape(2, 128, 2, 512),  # Turc et al. 2019, arXiv 1908.08962, this and the next three
    "bert-mini": Shape(4, 256, 4, 1024),
    "bert-small": Shape(4, 512, 8, 2048),
    "bert-medium": Shape(8, 512, 8, 2048),
}

_EMBEDDINGS: dict[str, Axes] = {
    "embeddings.word_embeddings": ("pieces", "units"),
    "embeddings.position_embeddings": ("positions", "units"),
    "embeddings.token_type_embeddings": ("types", "units"),
    "embeddings.LayerNorm": ("units",),
}
_DENSE_HEAD: dict[str, Axes] = {"classifier.dense": ("units", "units"), "classifier.out_proj": ("labels", "units")}
_BERT = Family(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    elsewhere=_EMBEDDINGS | {"pooler.dense": ("units", "units"), "classifier": ("labels", "units")},
)
_ROBERTA = replace(_BERT, elsewhere=_EMBEDDINGS | _DENSE_HEAD | {"pooler.dense": ("units", "units")})

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": replace(_BERT, elsewhere=_EMBEDDINGS | _DENSE_HEAD | {"embeddings_project": ("units", "embedding")}),
    "distilbert": Family(
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
        elsewhere=_EMBEDDINGS | {"pre_classifier": ("units", "units"), "classifier": ("labels", "units")},
    ),
}
