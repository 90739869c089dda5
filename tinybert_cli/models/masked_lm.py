"""A masked language model that says which other words could stand in a text: one pass for all the words of it.

Nothing is masked. A masked language model is trained on words that were exchanged for others as well as on masks, so it
says of every word that it reads what else might stand there; BERT-Attack finds its substitutes in this way (Li et al.
2020, section 3.2). TinyBERT masks one word at a time, with the original sentence beside it so that the word is not
forgotten (Jiao et al. 2020, algorithm 1): for M words, M passes of twice the length.

Shapes: B batch, T tokens, M words asked about, H width, W words that may be an answer, K candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.models.families import FAMILIES
from tinybert_cli.models.locate import Source
from tinybert_cli.models.vocabulary_trimming import whole_words
from tinybert_cli.types import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Spans = Sequence[tuple[int, int]]  # where words begin and end in a text


class MaskedLM(torch.nn.Module):
    """Takes the model over: from now on its head knows the words that may be an answer, and no other piece."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        source: Source,
        *,
        candidates: int,
        is_barred: Callable[[str], bool],
    ) -> None:
        super().__init__()
        family = FAMILIES.get(model.config.model_type)
        if family is None:
            raise InputError(
                f"{model.config.model_type} models cannot be asked for other words: they are not laid out like BERT",
                where=source.name,
                hint=f"families that can: {', '.join(FAMILIES)}",
            )
        table = {word: piece for word, piece in whole_words(tokenizer).items() if not is_barred(word)}
        self.words = list(table)
        self.candidates = min(candidates, max(len(table) - 1, 0))
        self._word_of_piece = {piece: index for index, piece in enumerate(table.values())}
        self._index = {word: index for index, word in enumerate(table)}
        inner = (piece for text, piece in tokenizer.get_vocab().items() if text.startswith("##"))
        self._no_words = frozenset([*tokenizer.all_special_ids, *inner])
        self._tokenizer = tokenizer
        positions: Any = model.base_model.get_submodule("embeddings.position_embeddings")
        # RoBERTa counts its positions from the id of its padding.
        self._longest = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)

        self.model = model
        _keep_answers(model, list(table.values()))
        self.head = torch.nn.Sequential(*(model.get_submodule(name) for name in family.lm_head))

    def encode(
        self, texts: Sequence[str], spans: Sequence[Spans], max_length: int
    ) -> tuple[dict[str, tuple[Array, int]], Array, list[list[int]]]:
        """Texts as tokens and offsets, and which of each text's `spans` the model is asked about, in their order.

        Those that are a single piece of its vocabulary and stand within the first `max_length` tokens.
        """
        read = self._tokenizer(
            list(texts), truncation=True, max_length=min(max_length, self._longest), return_offsets_mapping=True
        )
        own_words: list[Array] = []
        asked: list[list[int]] = []
        for text, wanted, pieces, places in zip(texts, spans, read["input_ids"], read["offset_mapping"], strict=True):
            token_of = self._whole_pieces(text, pieces, places)
            asked.append([number for number, span in enumerate(wanted) if span in token_of])
            own = np.full(len(pieces), NOT_ASKED, dtype=np.int32)
            for number in asked[-1]:
                token = token_of[wanted[number]]
                own[token] = self._own(text[slice(*wanted[number])], pieces[token])
            own_words.append(own)
        input_ids = np.concatenate([np.asarray(pieces, dtype=np.int32) for pieces in read["input_ids"]])
        tokens = {
            "input_ids": (input_ids, int(self._tokenizer.pad_token_id)),
            "own_words": (np.concatenate(own_words), NOT_ASKED),
        }
        return tokens, np.concatenate([[0], np.cumsum([len(own) for own in own_words])]), asked

    def forward(self, input_ids: Tensor, attention_mask: Tensor, own_words: Tensor) -> dict[str, Tensor]:
        """`candidates` (B, M, K): the K likeliest other words for each one asked about, as places in `words`.

        `own_words` (B, T) has the place of the word that stands there, W if it is none of `words`, or NOT_ASKED.
        """
        is_asked = own_words != NOT_ASKED
        states = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask)[0][is_asked]  # (ΣM, H)
        own, counts = own_words[is_asked], is_asked.sum(-1)
        filled = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]  # (B, M)
        found = counts.new_zeros(*filled.shape, self.candidates)
        chunks = [slice(begin, begin + CHUNK) for begin in range(0, len(own), CHUNK)]
        if chunks:
            found[filled] = torch.cat([self._best(states[chunk], own[chunk]) for chunk in chunks])
        return {"candidates": found}

    def _best(self, states: Tensor, own: Tensor) -> Tensor:
        """(m, H) → (m, K)"""
        logits: Tensor = self.head(states)  # (m, W)
        known = (own < len(self.words)).nonzero().squeeze(-1)
        logits[known, own[known]] = -torch.inf
        return logits.topk(self.candidates).indices

    def _whole_pieces(self, text: str, pieces: Sequence[int], places: Spans) -> dict[tuple[int, int], int]:
        """Where a single piece stands for all that is there, and which token it is."""
        spans = [_without_space(text, *place) for place in places]
        shared = Counter(spans)  # BPE may need several pieces for one character
        found = enumerate(zip(spans, pieces, strict=True))
        return {span: token for token, (span, piece) in found if shared[span] == 1 and piece not in self._no_words}

    def _own(self, word: str, piece: int) -> int:
        return self._word_of_piece.get(piece, self._index.get(word.lower(), len(self.words)))


def _keep_answers(model: PreTrainedModel, pieces: list[int]) -> None:
    """Takes every other piece out of the head: they are not asked for, and cost a third of its time."""
    old: Any = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, len(pieces), device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        head.weight.copy_(old.weight[pieces])
        head.bias.copy_(old.bias[pieces])
    model.set_output_embeddings(head)


def _without_space(text: str, begin: int, end: int) -> tuple[int, int]:
    """Unigram counts the space before a word as a part of it."""
    return end - len(text[begin:end].lstrip()), end


CHUNK = 1024  # words whose logits (CHUNK, W) are in memory at once
NOT_ASKED = -1
