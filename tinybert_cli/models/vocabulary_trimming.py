"""Trimming a vocabulary: a model and its tokenizer keep only the pieces that some text needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

New = Mapping[int, int]  # old id → new id


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, used: Iterable[int]
) -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """Takes from the model every embedding, and gives a tokenizer without every piece, that is not in `used` (ids).

    Special tokens and single characters stay, so that any text can still be read; text that needs only kept pieces is
    split as before and gets the same logits. Returns the tokenizer, and `pieces`, `pieces_kept` and `bytes_saved`.

    Raises:
        InputError: the tokenizer is neither WordPiece nor BPE nor Unigram.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = description["model"]["type"]
    if kind not in KINDS or description["model"].get("continuing_subword_prefix") not in (None, "", "##"):
        raise InputError(
            f"the vocabulary of a {kind} tokenizer cannot be trimmed", hint="set trim_vocabulary: false for this model"
        )
    ids = tokenizer.get_vocab()
    pads = range((tokenizer.pad_token_id or 0) + 1)  # RoBERTa counts its positions from the id of its padding
    kept = {*map(int, used), *tokenizer.all_special_ids, *(token["id"] for token in description["added_tokens"]), *pads}
    suffix = description["model"].get("end_of_word_suffix") or ""
    bare = {piece: piece.removeprefix("##").removeprefix("▁").removesuffix(suffix) for piece in ids}
    kept |= {number for piece, number in ids.items() if len(bare[piece]) == 1}
    if kind == "BPE":
        merges = _merges(description["model"])
        for piece in [piece for piece, number in ids.items() if number in kept]:
            kept |= {ids[part] for part in _parts(piece, merges, suffix) if part in ids}
    order = sorted(kept)
    new = {old: number for number, old in enumerate(order)}

    KINDS[kind](description["model"], new)
    description["added_tokens"] = [{**token, "id": new[token["id"]]} for token in description["added_tokens"]]
    _renumber(description["post_processor"], new)
    description["padding"] = None  # the library sets it anew
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(description))

    before = model.get_input_embeddings().weight
    _keep_rows(model, order, new)
    after = model.get_input_embeddings().weight
    saved = (before.numel() - after.numel()) * before.element_size()
    return trimmed, {"pieces": len(before), "pieces_kept": len(after), "bytes_saved": saved}


def whole_words(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Every piece that is a word of letters by itself, in lower case, with its id; of two spellings the first id."""
    special = set(tokenizer.all_special_tokens)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    starts = any(piece.startswith(("Ġ", "▁")) for piece, _ in pieces)  # BPE and Unigram mark where words begin
    found: dict[str, int] = {}
    for piece, number in pieces:
        if piece in special or piece.startswith("##") or (starts and not piece.startswith(("Ġ", "▁"))):
            continue
        word = tokenizer.convert_tokens_to_string([piece]).strip().lower() if starts else piece.lower()
        if word.isalpha() and (len(word) > 1 or not word.isascii()):
            found.setdefault(word, number)
    return found


def _keep_rows(model: PreTrainedModel, order: list[int], new: New) -> None:
    old: Any = model.get_input_embeddings()
    padding = None if old.padding_idx is None else new[old.padding_idx]
    embedding = torch.nn.Embedding(len(order), old.embedding_dim, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.copy_(old.weight[order])
    model.set_input_embeddings(embedding)
    model.config.vocab_size = len(order)
    for name, value in model.config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(model.config, name, new.get(value))


def _trim_words(description: dict[str, Any], new: New) -> None:
    description["vocab"] = {piece: new[number] for piece, number in description["vocab"].items() if number in new}


def _trim_merges(description: dict[str, Any], new: New) -> None:
    """A piece is in reach if both its halves are, and it stays; any other merge would make a piece that is gone."""
    _trim_words(description, new)
    vocabulary = description["vocab"]
    description["merges"] = [
        [left, right]
        for left, right in _merges(description)
        if left in vocabulary and right in vocabulary and left + right in vocabulary
    ]


def _trim_scores(description: dict[str, Any], new: New) -> None:
    description["vocab"] = [entry for number, entry in enumerate(description["vocab"]) if number in new]
    if description["unk_id"] is not None:
        description["unk_id"] = new[description["unk_id"]]


def _merges(description: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Pair → rank; older files write a pair as one string."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in description["merges"])
    return {(left, right): rank for rank, (left, right) in enumerate(pairs)}


def _parts(piece: str, merges: Mapping[tuple[str, str], int], suffix: str) -> Iterable[str]:
    """Every piece on the way from single characters to this one."""
    stem = piece.removesuffix(suffix) if suffix else piece
    symbols = list(stem)
    if stem != piece and symbols:
        symbols[-1] += suffix
    while True:
        yield from (symbol for symbol in symbols if len(symbol) > 1)
        pairs = list(pairwise(symbols))
        rank, place = min(((merges.get(pair, len(merges)), place) for place, pair in enumerate(pairs)), default=(0, -1))
        if place < 0 or rank == len(merges):
            return
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


def _renumber(processor: Any, new: New) -> None:
    """The ids that the post-processor puts around the text."""
    if isinstance(processor, list):
        for part in processor:
            _renumber(part, new)
    elif isinstance(processor, dict):
        for name, value in processor.items():
            if name in ("sep", "cls"):
                processor[name] = [value[0], new[value[1]]]
            elif name == "special_tokens":
                for token in value.values():
                    token["ids"] = [new[number] for number in token["ids"]]
            else:
                _renumber(value, new)


KINDS: dict[str, Callable[[dict[str, Any], New], None]] = {
    "WordPiece": _trim_words,
    "BPE": _trim_merges,
    "Unigram": _trim_scores,
}
