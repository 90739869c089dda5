"""A masked language model that proposes replacements for all words of a text in one forward pass.

Nothing is masked. Masked language models are trained on randomly replaced words as well as on masks, so their
prediction for a visible word also ranks alternatives to it; BERT-Attack finds its substitutes in this way (Li et al.
2020, section 3.2). TinyBERT masks one word at a time and appends the original sentence, so that the model still sees
the word (Jiao et al. 2020, algorithm 1): for M words, M passes of twice the length.

Shapes: B batch, T tokens, M words with candidates, H hidden size, V words in the vocabulary, K candidates per word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.input_limits import NO_LENGTH, max_positions
from tinybert_cli.models.capabilities import capability_table
from tinybert_cli.models.families import FAMILIES, known_family
from tinybert_cli.models.locate import Source
from tinybert_cli.models.vocabulary_trimming import whole_words
from tinybert_cli.types import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Spans = Sequence[tuple[int, int]]  # character spans (begin, end) in a text


class MaskedLM(torch.nn.Module):
    """Predicts replacement candidates. The model is changed in place: its head keeps only the logits of whole words.

    Args:
        model: a masked language model.
        tokenizer: its tokenizer.
        source: for error messages.
        candidates: K, candidates per word.
        is_excluded: words, in lower case, that must not be candidates.

    Attributes:
        words: the V possible candidates, in lower case.
        candidates: K, at most V - 1.

    Raises:
        InputError: the family is not supported.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        source: Source,
        *,
        candidates: int,
        is_excluded: Callable[[str], bool],
    ) -> None:
        super().__init__()
        family = known_family(model.config)
        if family is None:
            raise InputError(
                f"{model.config.model_type} models cannot propose replacements: they are not structured like BERT\n"
                + capability_table(model.config.model_type, None),
                where=source.name,
                hint=f"supported families: {', '.join(FAMILIES)}",
            )
        if model.config.to_dict().get("legacy") is False:  # its head multiplies by the word embeddings
            raise InputError(
                "DeBERTa models with `legacy: false` in config.json cannot propose replacements",
                where=source.name,
                hint="use a model with another masked-LM head, such as google-bert/bert-base-uncased",
            )
        vocabulary = {word: token for word, token in whole_words(tokenizer).items() if not is_excluded(word)}
        self.words = list(vocabulary)
        self.candidates = min(candidates, max(len(vocabulary) - 1, 0))
        self._index_of_token = {token: index for index, token in enumerate(vocabulary.values())}
        self._index_of_word = {word: index for index, word in enumerate(vocabulary)}
        continuations = (token for text, token in tokenizer.get_vocab().items() if text.startswith("##"))
        self._not_words = frozenset([*tokenizer.all_special_ids, *continuations])
        self._tokenizer = tokenizer
        self._max_length = max_positions(model.config.to_dict()) or NO_LENGTH

        self.model = model
        _restrict_head(model, list(vocabulary.values()))
        self.head = torch.nn.Sequential(*(model.get_submodule(name) for name in family.lm_head))

    def encode(
        self, texts: Sequence[str], spans: Sequence[Spans], max_length: int
    ) -> tuple[dict[str, tuple[Array, int]], Array, list[list[int]]]:
        """Tokenize the texts and find the spans that are a single token within the first `max_length` tokens.

        Args:
            texts: N texts.
            spans: the character spans of the words of each text.
            max_length: tokens per text, special tokens included.

        Returns:
            Tokens and offsets as in `data.Examples`, and for each text the indices of its spans with candidates.
        """
        encoding = self._tokenizer(
            list(texts), truncation=True, max_length=min(max_length, self._max_length), return_offsets_mapping=True
        )
        own_words: list[Array] = []
        indices: list[list[int]] = []
        rows = zip(texts, spans, encoding["input_ids"], encoding["offset_mapping"], strict=True)
        for text, text_spans, tokens, token_spans in rows:
            position_of = self._single_tokens(text, tokens, token_spans)
            indices.append([index for index, span in enumerate(text_spans) if span in position_of])
            own = np.full(len(tokens), NO_WORD, dtype=np.int32)
            for index in indices[-1]:
                position = position_of[text_spans[index]]
                own[position] = self._word_index(text[slice(*text_spans[index])], tokens[position])
            own_words.append(own)
        input_ids = np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens in encoding["input_ids"]])
        inputs = {
            "input_ids": (input_ids, int(self._tokenizer.pad_token_id)),
            "own_words": (np.concatenate(own_words), NO_WORD),
        }
        return inputs, np.concatenate([[0], np.cumsum([len(own) for own in own_words])]), indices

    def forward(self, input_ids: Tensor, attention_mask: Tensor, own_words: Tensor) -> dict[str, Tensor]:
        """`candidates` (B, M, K): indices into `words` of the K most likely other words, for each word in `own_words`.

        `own_words` (B, T) is the index of the word at a token, V if it is not in `words`, or NO_WORD for tokens without
        candidates. Texts with fewer than M words are padded with zeros.
        """
        is_word = own_words != NO_WORD
        states = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask)[0][is_word]  # (ΣM, H)
        own, counts = own_words[is_word], is_word.sum(-1)
        is_filled = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]  # (B, M)
        candidates = counts.new_zeros(*is_filled.shape, self.candidates)
        chunks = [slice(begin, begin + CHUNK) for begin in range(0, len(own), CHUNK)]
        if chunks:
            candidates[is_filled] = torch.cat([self._most_likely(states[chunk], own[chunk]) for chunk in chunks])
        return {"candidates": candidates}

    def _most_likely(self, states: Tensor, own: Tensor) -> Tensor:
        """(M, H), (M,) → (M, K)"""
        logits: Tensor = self.head(states)  # (M, V)
        in_vocabulary = (own < len(self.words)).nonzero().squeeze(-1)
        logits[in_vocabulary, own[in_vocabulary]] = -torch.inf
        return logits.topk(self.candidates).indices

    def _single_tokens(self, text: str, tokens: Sequence[int], token_spans: Spans) -> dict[tuple[int, int], int]:
        """Span → position of its token, for spans that are exactly one token and not special or a continuation."""
        spans = [_without_space(text, *span) for span in token_spans]
        counts = Counter(spans)  # BPE may need several tokens for one character
        pairs = enumerate(zip(spans, tokens, strict=True))
        return {
            span: position for position, (span, token) in pairs if counts[span] == 1 and token not in self._not_words
        }

    def _word_index(self, word: str, token: int) -> int:
        return self._index_of_token.get(token, self._index_of_word.get(word.lower(), len(self.words)))


def _restrict_head(model: PreTrainedModel, tokens: list[int]) -> None:
    """Remove the logits of all other tokens from the head: they are not needed, and take a third of its time."""
    old: Any = model.get_output_embeddings()
    bias = old.bias is not None
    head = torch.nn.Linear(old.in_features, len(tokens), bias=bias, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        head.weight.copy_(old.weight[tokens])
        if bias:
            head.bias.copy_(old.bias[tokens])
    model.set_output_embeddings(head)


def _without_space(text: str, begin: int, end: int) -> tuple[int, int]:
    """Unigram tokens include the space before a word."""
    return end - len(text[begin:end].lstrip()), end


CHUNK = 1024  # words whose logits (CHUNK, V) are in memory at once
NO_WORD = -1
