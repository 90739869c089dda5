"""Vocabulary trimming: remove the tokens, and their embeddings, that the training texts do not use."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinybert_cli.errors import InputError
from tinybert_cli.input_limits import AFTER_PADDING
from tinybert_cli.types import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NewIds = Mapping[int, int]  # old id → new id


@dataclass(frozen=True)
class TrimmedVocabulary:
    """A tokenizer without the tokens that were removed."""

    tokenizer: PreTrainedTokenizerFast
    sizes: dict[str, int]  # source_vocabulary_size, vocabulary_size: tokens before and after; bytes_saved
    new_ids: Array  # (source_vocabulary_size,) of each old id, as int32; -1 where the token was removed
    used: list[int]  # the old ids that the texts use


def trim_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, used: list[int]) -> TrimmedVocabulary:
    """Remove the embeddings of all tokens that are not in `used` from the model, and the tokens from the tokenizer.

    Special tokens and single characters stay in the vocabulary, so that every text can still be tokenized. Texts that
    need only the remaining tokens are tokenized as before and get the same logits.

    Args:
        model: changed in place.
        tokenizer: not changed.
        used: ids of the tokens to keep.

    Raises:
        InputError: the tokenizer is neither WordPiece nor BPE nor Unigram, or the embeddings are of a special kind.
    """
    if not isinstance(model.get_input_embeddings(), torch.nn.Embedding):
        raise InputError(
            f"the embeddings of {model.config.model_type} models cannot be trimmed",
            hint="set trim_vocabulary: false for this model",
        )
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    algorithm = description["model"]["type"]
    prefix = description["model"].get("continuing_subword_prefix") or ""
    if algorithm not in TRIMMERS or prefix not in ("", "##" if algorithm == "WordPiece" else ""):
        raise InputError(
            f"the vocabulary of a {algorithm} tokenizer cannot be trimmed",
            hint="set trim_vocabulary: false for this model",
        )
    ids = sorted(_needed_ids(tokenizer, description, used) | _ids_by_number(model))
    new_ids = {old: new for new, old in enumerate(ids)}

    TRIMMERS[algorithm](description["model"], new_ids)
    description["added_tokens"] = [{**token, "id": new_ids[token["id"]]} for token in description["added_tokens"]]
    _renumber(description["post_processor"], new_ids)
    description["padding"] = None  # the tokenizer sets it again for each batch
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(description))

    before = model.get_input_embeddings().weight
    _select_embeddings(model, ids, new_ids)
    after = model.get_input_embeddings().weight
    saved = (before.numel() - after.numel()) * before.element_size()
    sizes = {"source_vocabulary_size": len(before), "vocabulary_size": len(after), "bytes_saved": saved}
    table = np.full(len(before), -1, dtype=np.int32)
    table[ids] = np.arange(len(ids))
    return TrimmedVocabulary(trimmed, sizes, table, used)


def whole_words(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The words that are a single token, in lower case, with its id; the lowest id if several tokens differ in case."""
    special = set(tokenizer.all_special_tokens)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    marks_words = any(token.startswith(WORD_STARTS) for token, _ in tokens)
    words: dict[str, int] = {}
    for token, token_id in tokens:
        if token in special or token.startswith("##") or (marks_words and not token.startswith(WORD_STARTS)):
            continue
        word = tokenizer.convert_tokens_to_string([token]).strip().lower() if marks_words else token.lower()
        if word.isalpha() and (len(word) > 1 or not word.isascii()):
            words.setdefault(word, token_id)
    return words


def _needed_ids(tokenizer: PreTrainedTokenizerFast, description: Mapping[str, Any], used: Iterable[int]) -> set[int]:
    """The used ids, those of special tokens, single characters and bytes, and tokens that BPE merges others from."""
    vocabulary = tokenizer.get_vocab()
    added = (token["id"] for token in description["added_tokens"])
    ids = {*map(int, used), *tokenizer.all_special_ids, *added}
    suffix = description["model"].get("end_of_word_suffix") or ""
    for token, token_id in vocabulary.items():
        if len(token.removeprefix("##").removeprefix("▁").removesuffix(suffix)) <= 1:
            ids.add(token_id)
    if description["model"].get("byte_fallback"):  # of characters that are no token
        ids |= {vocabulary[token] for token in (f"<0x{byte:02X}>" for byte in range(256)) if token in vocabulary}
    if description["model"]["type"] == "BPE":
        merges = _merges(description["model"])
        for token in [token for token, token_id in vocabulary.items() if token_id in ids]:
            ids |= {vocabulary[part] for part in _merge_parts(token, merges, suffix) if part in vocabulary}
    return ids


def _ids_by_number(model: PreTrainedModel) -> set[int]:
    """Ids that the model itself uses: of padding, and those below it if it numbers positions from the padding id."""
    padding: int | None = model.get_input_embeddings().padding_idx  # type: ignore[assignment]
    if padding is None:
        return set()
    return set(range(padding + 1)) if model.config.model_type in AFTER_PADDING else {padding}


def _select_embeddings(model: PreTrainedModel, ids: list[int], new_ids: NewIds) -> None:
    old: Any = model.get_input_embeddings()
    padding = None if old.padding_idx is None else new_ids[old.padding_idx]
    embedding = torch.nn.Embedding(len(ids), old.embedding_dim, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.copy_(old.weight[ids])
    model.set_input_embeddings(embedding)
    model.config.vocab_size = len(ids)
    for name, value in model.config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int) and value < old.num_embeddings:
            setattr(model.config, name, new_ids.get(value))


def _trim_wordpiece(description: dict[str, Any], new_ids: NewIds) -> None:
    description["vocab"] = {token: new_ids[old] for token, old in description["vocab"].items() if old in new_ids}


def _trim_bpe(description: dict[str, Any], new_ids: NewIds) -> None:
    """Remove every merge whose parts or result are no longer in the vocabulary."""
    _trim_wordpiece(description, new_ids)
    vocabulary = description["vocab"]
    description["merges"] = [
        [left, right]
        for left, right in _merges(description)
        if left in vocabulary and right in vocabulary and left + right in vocabulary
    ]


def _trim_unigram(description: dict[str, Any], new_ids: NewIds) -> None:
    description["vocab"] = [entry for old, entry in enumerate(description["vocab"]) if old in new_ids]
    if description["unk_id"] is not None:
        description["unk_id"] = new_ids[description["unk_id"]]


def _merges(description: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Pair of tokens → rank of its merge; older files write a pair as one string."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in description["merges"])
    return {(left, right): rank for rank, (left, right) in enumerate(pairs)}


def _merge_parts(token: str, merges: Mapping[tuple[str, str], int], suffix: str) -> Iterable[str]:
    """All intermediate tokens of the merges that build this token from single characters."""
    stem = token.removesuffix(suffix) if suffix else token
    symbols = list(stem)
    if stem != token and symbols:
        symbols[-1] += suffix
    while True:
        yield from (symbol for symbol in symbols if len(symbol) > 1)
        pairs = list(pairwise(symbols))
        ranks = ((merges.get(pair, len(merges)), index) for index, pair in enumerate(pairs))
        rank, index = min(ranks, default=(0, -1))
        if index < 0 or rank == len(merges):
            return
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]


def _renumber(processor: Any, new_ids: NewIds) -> None:
    """Replace the ids of the special tokens that the post-processor adds to a text."""
    if isinstance(processor, list):
        for part in processor:
            _renumber(part, new_ids)
    elif isinstance(processor, dict):
        for name, value in processor.items():
            if name in ("sep", "cls"):
                processor[name] = [value[0], new_ids[value[1]]]
            elif name == "special_tokens":
                for token in value.values():
                    token["ids"] = [new_ids[old] for old in token["ids"]]
            else:
                _renumber(value, new_ids)


WORD_STARTS = ("Ġ", "▁")  # how BPE and Unigram mark the first token of a word

TRIMMERS: dict[str, Callable[[dict[str, Any], NewIds], None]] = {
    "WordPiece": _trim_wordpiece,
    "BPE": _trim_bpe,
    "Unigram": _trim_unigram,
}
