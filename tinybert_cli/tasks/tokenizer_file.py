"""The tokenizer of an export: called like a tokenizer of transformers, but needs neither transformers nor torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json with the settings beside it."""

    backend_tokenizer: Tokenizer
    model_input_names: Sequence[str]
    truncation_side: str = "right"
    pad_token_id: int = 0
    pad_token_type_id: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        add_special_tokens: bool = True,
        return_overflowing_tokens: bool = False,
        **_: Any,  # which outputs to return: all are computed when they are read
    ) -> Encodings:
        """A batch of texts, or of pairs, as token ids."""
        backend = self.backend_tokenizer
        inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
        with self._lock:  # threads of a web service share the tokenizer, and the settings are a part of it
            backend.no_padding()
            backend.no_truncation()
            if truncation and max_length is not None:
                strategy = "longest_first" if truncation is True else truncation
                backend.enable_truncation(max_length, stride=stride, strategy=strategy, direction=self.truncation_side)
            encodings = backend.encode_batch(list(inputs), add_special_tokens=add_special_tokens)
        windows = [[first, *(first.overflowing if return_overflowing_tokens else [])] for first in encodings]
        return Encodings(
            [window for row in windows for window in row],
            [index for index, row in enumerate(windows) for _ in row],
        )

    def cut_encodings(self, columns: Sequence[Sequence[str]], max_length: int) -> Sequence[Encoding]:
        """Texts, or pairs from two columns, cut to `max_length` tokens; without offsets."""
        backend = self.backend_tokenizer
        with self._lock:
            backend.no_padding()
            backend.enable_truncation(max_length, strategy="longest_first", direction=self.truncation_side)
            encodings: Sequence[Encoding] = backend.encode_batch_fast(_inputs(columns))
        return encodings

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return int(self.backend_tokenizer.num_special_tokens_to_add(pair))


def cut_encodings(
    tokenizer: PreTrainedTokenizerBase | TokenizerFile, columns: Sequence[Sequence[str]], max_length: int
) -> Sequence[Encoding]:
    """What `tokenizer(*columns, truncation=True)` computes, without its lists: they take half of the time."""
    if isinstance(tokenizer, TokenizerFile):
        return tokenizer.cut_encodings(columns, max_length)
    encodings: Sequence[Encoding] = _backend(tokenizer, max_length).encode_batch_fast(_inputs(columns))
    return encodings


def whole_encodings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Sequence[Encoding]:
    """What `tokenizer(texts, add_special_tokens=False)` computes, without its lists."""
    backend = _backend(tokenizer, None)
    encodings: Sequence[Encoding] = backend.encode_batch_fast(_inputs([texts]), add_special_tokens=False)
    return encodings


def _backend(tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Tokenizer:
    """The tokenizer inside one of transformers, with its settings for a call: cut to `max_length`, or whole."""
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy

    strategy = TruncationStrategy.DO_NOT_TRUNCATE if max_length is None else TruncationStrategy.LONGEST_FIRST
    tokenizer.set_truncation_and_padding(PaddingStrategy.DO_NOT_PAD, strategy, max_length or 0, 0, None, None)
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _inputs(columns: Sequence[Sequence[str]]) -> Sequence[Any]:
    """Texts, or pairs, as a backend tokenizer takes them."""
    return list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))


@dataclass(frozen=True)
class Encodings(Mapping[str, Any]):
    """The windows of a batch of texts, with the keys of a `BatchEncoding` of transformers."""

    encodings: list[Encoding]
    rows: list[int]  # the text of each window

    def __getitem__(self, name: str) -> list[Any]:
        if name == "overflow_to_sample_mapping":
            return self.rows
        return [getattr(encoding, _ATTRIBUTES[name]) for encoding in self.encodings]

    def __iter__(self) -> Any:
        return iter([*_ATTRIBUTES, "overflow_to_sample_mapping"])

    def __len__(self) -> int:
        return len(_ATTRIBUTES) + 1

    def sequence_ids(self, index: int) -> list[int | None]:
        """For each token of a window, whether it is of the first text (0), of the second (1) or special (None)."""
        ids: list[int | None] = self.encodings[index].sequence_ids
        return ids


_ATTRIBUTES = {  # key → attribute of tokenizers.Encoding
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
}
