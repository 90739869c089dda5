"""Module names of the supported model families, and the four sizes of a BERT-class model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinybert_cli.errors import InputError
from tinybert_cli.presets import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Axes = tuple[str, ...]  # the name of each dimension of a weight; a bias has the first one


@dataclass(frozen=True)
class Family:
    """Module names of a model family: `layers` and `outside_layers` in the base model, all others in a layer."""

    layers: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    norms: tuple[str, str]
    lm_head: tuple[str, ...]  # modules of the masked-LM head, in the order in which they run; not in the base model
    outside_layers: Mapping[str, Axes]  # module → dimensions of its weight

    def axes(self, key: str) -> Axes:
        """The dimensions of a weight inside a layer."""
        module = key.rpartition(".")[0]
        if module in self.norms:
            return ("hidden",)
        from_hidden = {self.query: "heads", self.key: "heads", self.value: "heads", self.up: "ffn"}
        to_hidden = {self.output: "heads", self.down: "ffn"}
        return (from_hidden[module], "hidden") if module in from_hidden else ("hidden", to_hidden[module])


def shape_of(config: PreTrainedConfig) -> Shape:
    """The four sizes in a config; InputError if it has no such fields."""
    values = config.to_dict()
    fields = {name: field_name(config, name) for name in Shape.__dataclass_fields__}
    if not values.keys() >= set(fields.values()):
        raise InputError(
            f"{config.model_type} models cannot be built in another size: their config has other size fields",
            hint=f"supported families: {', '.join(FAMILIES)}",
        )
    return Shape(**{name: int(values[field]) for name, field in fields.items()})


def field_name(config: PreTrainedConfig, name: str) -> str:
    """The name of a field of `Shape` in this config."""
    if config.model_type == "distilbert" and name == "intermediate_size":
        return "hidden_dim"  # missing from its attribute_map
    return str(config.attribute_map.get(name, name))


_EMBEDDINGS: dict[str, Axes] = {
    "embeddings.word_embeddings": ("vocabulary", "hidden"),
    "embeddings.position_embeddings": ("positions", "hidden"),
    "embeddings.token_type_embeddings": ("types", "hidden"),
    "embeddings.LayerNorm": ("hidden",),
}
_HEAD: dict[str, Axes] = {"classifier": ("labels", "hidden"), "qa_outputs": ("labels", "hidden")}
_DENSE_HEAD = _HEAD | {"classifier.dense": ("hidden", "hidden"), "classifier.out_proj": ("labels", "hidden")}
_BERT = Family(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    lm_head=("cls",),
    outside_layers=_EMBEDDINGS | _HEAD | {"pooler.dense": ("hidden", "hidden")},
)
_ROBERTA = replace(
    _BERT, lm_head=("lm_head",), outside_layers=_EMBEDDINGS | _DENSE_HEAD | {"pooler.dense": ("hidden", "hidden")}
)

# Families whose implementation in transformers fails in bf16 or under autocast.
FLOAT32_ONLY = {"big_bird", "deberta", "fnet", "mra"}

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": replace(
        _BERT,
        lm_head=("generator_predictions", "generator_lm_head"),
        outside_layers=_EMBEDDINGS | _DENSE_HEAD | {"embeddings_project": ("hidden", "embedding")},
    ),
    "distilbert": Family(
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
        lm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        outside_layers=_EMBEDDINGS | _HEAD | {"pre_classifier": ("hidden", "hidden")},
    ),
}
