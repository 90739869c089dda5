"""What inputs a model can take, from its config.json: how many tokens, and whether pairs. No import of torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinybert_cli.errors import InputError

NO_LENGTH = 10**6  # `model_max_length` of a tokenizer is 10**30 if there is none

# Families that number the tokens of a text from the padding id + 1, as fairseq does.
AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The longest input in tokens; None for relative positions, which have no limit (Funnel, DeBERTa-v3)."""
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int) or limit < 1 or config.get("position_biased_input") is False:
        return None
    if config.get("model_type") in AFTER_PADDING:
        padding = (
            1 if config["model_type"] == "mpnet" else config.get("pad_token_id") or 0
        )  # MPNet does not read its own
        return limit - padding - 1
    return limit


def max_target_length(config: Mapping[str, Any], prefix: int) -> int | None:
    """The longest translation in tokens, the end included, that a decoder with learned or sine positions can make.

    It reads the start token, the `prefix` tokens before every translation, and all tokens of the translation except the
    last one.
    """
    positions = max_positions(config)
    return None if positions is None else positions - prefix


def full_attention_length(config: Mapping[str, Any]) -> int | None:
    """The longest batch of BigBird, in tokens, in which each attends to all others; None in other families."""
    if config.get("model_type") != "big_bird" or config.get("attention_type", "block_sparse") != "block_sparse":
        return None
    return (5 + 2 * int(config.get("num_random_blocks", 3))) * int(config.get("block_size", 64))


def check_length(config: Mapping[str, Any], tokens: int, model: str, *, setting: str = "data.max_seq_length") -> None:
    """InputError if the model has fewer than `tokens` positions."""
    positions = max_positions(config)
    if positions is not None and tokens > positions:
        raise InputError(
            f"'{model}' has positions for {positions} tokens, not for {tokens}", hint=f"{setting}: at most {positions}"
        )


def check_pairs(config: Mapping[str, Any], tokenizer: Any, model: str) -> None:
    """InputError if the tokenizer gives the second text of a pair a token type that the model has no embedding for."""
    types = config.get("type_vocab_size")
    if not types or "token_type_ids" not in tokenizer.model_input_names:
        return  # 0 types: the model ignores them
    (highest,) = map(max, tokenizer(["a"], ["a"])["token_type_ids"])
    if highest >= types:
        raise InputError(
            f"'{model}' cannot take pairs of texts: its tokenizer gives the second text token type {highest}, but the "
            f"model has {types} (type_vocab_size in config.json)",
            hint="take a model with two token types, or join the two texts in one column",
        )
