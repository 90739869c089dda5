"""Tiny models of every family, with random weights, and a tokenizer of the kind that each family has."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

LABELS: dict[str, Any] = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
SIZES: dict[str, Any] = {
    "vocab_size": 30, "max_position_embeddings": 24, "hidden_size": 24, "num_attention_heads": 4,
    "num_hidden_layers": 4, "intermediate_size": 40, "initializer_range": 0.3, "pad_token_id": 1,
}  # fmt: skip
DEBERTA: dict[str, Any] = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "max_relative_positions": -1,
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4, "type_vocab_size": 0,
}  # fmt: skip
MODERN: dict[str, Any] = {
    "local_attention": 4, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES, **LABELS),
    "roberta": RobertaConfig(**SIZES, **LABELS),
    "xlm-roberta": XLMRobertaConfig(**SIZES, **LABELS),
    "camembert": CamembertConfig(**SIZES, **LABELS),
    "electra": ElectraConfig(**SIZES, **LABELS, embedding_size=24),
    "electra-projected": ElectraConfig(**SIZES, **LABELS, embedding_size=8),
    "distilbert": DistilBertConfig(
        vocab_size=30, max_position_embeddings=24, dim=24, n_heads=4, n_layers=4, hidden_dim=40, initializer_range=0.3,
        pad_token_id=1, **LABELS,
    ),
    "mpnet": MPNetConfig(**SIZES, **LABELS),
    "albert": AlbertConfig(**SIZES, **LABELS, embedding_size=8),
    "albert-groups": AlbertConfig(**SIZES, **LABELS, embedding_size=24, num_hidden_groups=2),
    "albert-unshared": AlbertConfig(**SIZES, **LABELS, embedding_size=8, num_hidden_groups=4),
    "deberta-v2": DebertaV2Config(
        **SIZES, **LABELS, **DEBERTA, conv_kernel_size=3, conv_act="gelu", attention_head_size=6
    ),
    "deberta-v3": DebertaV2Config(**SIZES, **LABELS, **DEBERTA),
    "deberta-unshared": DebertaV2Config(
        **SIZES, **LABELS,
        **{**DEBERTA, "share_att_key": False, "position_biased_input": True, "type_vocab_size": 2, "position_buckets": -1},
        embedding_size=8,
    ),
    "modernbert": ModernBertConfig(**SIZES, **LABELS, **MODERN),
    "modernbert-bias": ModernBertConfig(
        **SIZES, **LABELS, **MODERN, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
        classifier_pooling="mean",
    ),
}  # fmt: skip
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "electra-projected", "distilbert")
OTHERS = tuple(name for name in CONFIGS if name not in BERT_LIKE)


def make_teacher(name: str, auto_class: Any = AutoModelForSequenceClassification, **settings: Any) -> Any:
    """All weights are random, including layer norms and biases, so that no values are equal by accident."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name])
    attention = settings.pop("attention", None)
    for key, value in settings.items():
        setattr(config, key, value)
    options = {"attn_implementation": attention} if attention else {}
    model = auto_class.from_config(config, **options).eval()
    for key, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.data = torch.randn_like(weight) * 0.3 + (1.0 if "norm.weight" in key.lower() else 0.0)
    return model
