"""The supported model families: one description each, from which students, layer outputs and exports are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tinybert_cli.errors import InputError
from tinybert_cli.presets import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Axes = tuple[str, ...]  # the name of each dimension of a weight; a bias has the first one
Attention = Literal["plain", "biased", "disentangled", "rotary"]


@dataclass(frozen=True)
class Family:
    """Module names of a model family: `layers` and `outside_layers` in the base model, all others in a layer.

    A module that computes several things has a name for each part of its outputs: `attn.Wqkv.0` (see `fused`).
    """

    title: str
    layers: str
    attention: str  # the module that computes the attention, up to the product with the values or further
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    norms: tuple[str, ...]
    lm_head: tuple[str, ...]  # modules of the masked-LM head, in the order in which they run; not in the base model
    outside_layers: Mapping[str, Axes]  # module → dimensions of its weight
    scores: Attention = "plain"  # how scores are computed from queries and keys
    gate: str | None = None  # of a gated feed-forward network: its output is multiplied by that of `up`
    position_query: str | None = None  # projections of relative positions
    position_key: str | None = None
    fused: Mapping[str, int] = field(default_factory=dict)  # module → the number of its parts
    embedding_projection: str | None = None  # from the embedding size to the hidden size, if they differ
    embedding_norm: str = "embeddings.LayerNorm"
    norm_after_projection: bool = False  # `embedding_norm` has the hidden size, also if there is a projection
    first_norm: str | None = None  # a norm before the attention that the first layer has not
    last_norm: str | None = None  # a norm after the last layer; in the base model
    shares_layers: bool = False  # num_hidden_groups weights for num_hidden_layers layers
    one_token: bool = False  # the last layer can compute the [CLS] token only (cls_last_layer.py)

    def axes(self, key: str) -> Axes:
        """The dimensions of a weight inside a layer."""
        module = key.rpartition(".")[0]
        if module in self.norms:
            return ("hidden",)
        names = (self.query, self.key, self.value, self.position_query, self.position_key)
        from_hidden = dict.fromkeys(names, "heads") | dict.fromkeys((self.up, self.gate), "ffn")
        to_hidden = {self.output: "heads", self.down: "ffn"}
        return (from_hidden[module], "hidden") if module in from_hidden else ("hidden", to_hidden[module])

    @property
    def fixed_head_size(self) -> bool:
        """Whether heads can be removed, but not become smaller or larger: positions rotate pairs of dimensions."""
        return self.scores == "rotary"


def known_family(config: PreTrainedConfig) -> Family | None:
    """The description of a model's family; None if it is not supported, or in a variant that no published model has."""
    values = config.to_dict()
    family = FAMILIES.get(str(config.model_type))
    if family is not None and family.shares_layers and values["inner_group_num"] != 1:
        return None
    return family


def stored_layers(config: PreTrainedConfig) -> list[int]:
    """For each layer, the index of its weights in the model; ALBERT's layers share them."""
    layers = int(config.num_hidden_layers)
    groups = int(config.to_dict().get("num_hidden_groups", layers))
    return [int(index / (layers / groups)) for index in range(layers)]


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
_POOLER: dict[str, Axes] = {"pooler.dense": ("hidden", "hidden")}
_BERT = Family(
    title="BERT",
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    lm_head=("cls",),
    outside_layers=_EMBEDDINGS | _HEAD | _POOLER,
    one_token=True,
)
_ROBERTA = replace(_BERT, title="RoBERTa", lm_head=("lm_head",), outside_layers=_EMBEDDINGS | _DENSE_HEAD | _POOLER)

# Families whose implementation in transformers fails in bf16 or under autocast.
FLOAT32_ONLY = {"big_bird", "deberta", "fnet", "mra"}

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": replace(_ROBERTA, title="XLM-R"),
    "camembert": replace(_ROBERTA, title="CamemBERT"),
    "electra": replace(
        _BERT,
        title="ELECTRA",
        lm_head=("generator_predictions", "generator_lm_head"),
        outside_layers=_EMBEDDINGS | _DENSE_HEAD | {"embeddings_project": ("hidden", "embedding")},
        embedding_projection="embeddings_project",
    ),
    "distilbert": Family(
        title="DistilBERT",
        layers="transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
        lm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        outside_layers=_EMBEDDINGS | _HEAD | {"pre_classifier": ("hidden", "hidden")},
        one_token=True,
    ),
    "mpnet": replace(
        _BERT,
        title="MPNet",
        attention="attention.attn",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        norms=("attention.LayerNorm", "output.LayerNorm"),
        lm_head=("lm_head",),
        outside_layers=_EMBEDDINGS | _DENSE_HEAD | _POOLER | {"encoder.relative_attention_bias": ("distance", "head")},
        scores="biased",
        one_token=False,
    ),
    "albert": Family(
        title="ALBERT",
        layers="encoder.albert_layer_groups",
        attention="albert_layers.0.attention",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        output="albert_layers.0.attention.dense",
        up="albert_layers.0.ffn",
        down="albert_layers.0.ffn_output",
        norms=("albert_layers.0.attention.LayerNorm", "albert_layers.0.full_layer_layer_norm"),
        lm_head=("predictions",),
        outside_layers=_EMBEDDINGS
        | _HEAD
        | {"pooler": ("hidden", "hidden"), "encoder.embedding_hidden_mapping_in": ("hidden", "embedding")},
        embedding_projection="encoder.embedding_hidden_mapping_in",
        shares_layers=True,
    ),
    "deberta-v2": replace(
        _BERT,
        title="DeBERTa-v2, DeBERTa-v3",
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        lm_head=("cls",),
        outside_layers=_EMBEDDINGS
        | _HEAD
        | _POOLER
        | {
            "encoder.rel_embeddings": ("distance", "hidden"),
            "encoder.LayerNorm": ("hidden",),
            "encoder.conv.conv": ("hidden", "hidden", "kernel"),
            "encoder.conv.LayerNorm": ("hidden",),
            "embeddings.embed_proj": ("hidden", "embedding"),
        },
        scores="disentangled",
        position_query="attention.self.pos_query_proj",
        position_key="attention.self.pos_key_proj",
        embedding_projection="embeddings.embed_proj",
        norm_after_projection=True,
        one_token=False,
    ),
    "modernbert": Family(
        title="ModernBERT",
        layers="layers",
        attention="attn",
        query="attn.Wqkv.0",
        key="attn.Wqkv.1",
        value="attn.Wqkv.2",
        output="attn.Wo",
        up="mlp.Wi.0",
        gate="mlp.Wi.1",
        down="mlp.Wo",
        norms=("attn_norm", "mlp_norm"),
        lm_head=("head", "decoder"),
        outside_layers={
            "embeddings.tok_embeddings": ("vocabulary", "hidden"),
            "embeddings.norm": ("hidden",),
            "final_norm": ("hidden",),
            "head.dense": ("pooled", "hidden"),
            "head.norm": ("pooled",),
            "classifier": ("labels", "pooled"),
        },
        scores="rotary",
        fused={"attn.Wqkv": 3, "mlp.Wi": 2},
        embedding_norm="embeddings.norm",
        first_norm="attn_norm",
        last_norm="final_norm",
    ),
}
