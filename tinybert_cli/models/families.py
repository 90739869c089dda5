"""Where the families of BERT-class models keep their parts, and the four numbers that shape them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinybert_cli.errors import InputError
from tinybert_cli.presets import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Axes = tuple[str, ...]  # what each dimension of a weight runs over; a bias runs over the first


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
    lm_head: tuple[
        str, ...
    ]  # of the masked language model, in the order in which they are asked; not in the base model
    elsewhere: Mapping[str, Axes]

    def axes(self, key: str) -> Axes:
        """What the dimensions of a weight inside a layer run over."""
        module = key.rpartition(".")[0]
        if module in self.norms:
            return ("units",)
        reads = {self.query: "heads", self.key: "heads", self.value: "heads", self.up: "neurons"}
        writes = {self.output: "heads", self.down: "neurons"}
        return (reads[module], "units") if module in reads else ("units", writes[module])


def shape_of(config: PreTrainedConfig) -> Shape:
    values = config.to_dict()
    fields = {name: field_name(config, name) for name in Shape.__dataclass_fields__}
    if not values.keys() >= set(fields.values()):
        raise InputError(
            f"{config.model_type} models cannot be built in another size: their config has other numbers",
            hint=f"families that can: {', '.join(FAMILIES)}",
        )
    return Shape(**{name: int(values[field]) for name, field in fields.items()})


def field_name(config: PreTrainedConfig, name: str) -> str:
    if config.model_type == "distilbert" and name == "intermediate_size":
        return "hidden_dim"  # the one name that its attribute_map leaves out
    return str(config.attribute_map.get(name, name))


_EMBEDDINGS: dict[str, Axes] = {
    "embeddings.word_embeddings": ("pieces", "units"),
    "embeddings.position_embeddings": ("positions", "units"),
    "embeddings.token_type_embeddings": ("types", "units"),
    "embeddings.LayerNorm": ("units",),
}
_HEAD: dict[str, Axes] = {"classifier": ("labels", "units"), "qa_outputs": ("labels", "units")}
_DENSE_HEAD = _HEAD | {"classifier.dense": ("units", "units"), "classifier.out_proj": ("labels", "units")}
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
    elsewhere=_EMBEDDINGS | _HEAD | {"pooler.dense": ("units", "units")},
)
_ROBERTA = replace(
    _BERT, lm_head=("lm_head",), elsewhere=_EMBEDDINGS | _DENSE_HEAD | {"pooler.dense": ("units", "units")}
)

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": replace(
        _BERT,
        lm_head=("generator_predictions", "generator_lm_head"),
        elsewhere=_EMBEDDINGS | _DENSE_HEAD | {"embeddings_project": ("units", "embedding")},
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
        elsewhere=_EMBEDDINGS | _HEAD | {"pre_classifier": ("units", "units")},
    ),
}
