"""The tokenizers of a translation model, of the library `tokenizers` alone: no torch, no transformers.

Models with one vocabulary for both sides have the same tokenizer twice. Marian has two: the ids are shared, but source
and target text are split by different models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHUNK = 1000  # texts that are tokenized in one call


@dataclass(frozen=True)
class TranslationTokenizer:
    """Texts of both sides as token ids, and ids as texts."""

    source: Tokenizer  # adds the special tokens of a source: language code, end
    target: Tokenizer  # adds those of a target: language code, end; these ids are the labels
    start: int  # the first decoder input
    end: int
    padding: int
    prefix: tuple[int, ...] = ()  # the target tokens that are always the same: the language code, if it comes first
    files: Mapping[str, bytes] = field(default_factory=dict)  # what `save` writes: the model's own tokenizer files

    @property
    def size(self) -> int:
        """Number of token ids."""
        return 1 + max(max(tokenizer.get_vocab().values()) for tokenizer in (self.source, self.target))

    def source_ids(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """The tokens of source texts, special tokens included, cut to `max_length`: the special tokens stay."""
        return _ids(self.source, texts, max_length)

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The labels of target texts, special tokens included, not cut."""
        return _ids(self.target, texts, None)

    def texts(self, targets: Iterable[Sequence[int]]) -> list[str]:
        """Generated tokens as text, without special tokens."""
        decoded: list[str] = self.target.decode_batch([list(ids) for ids in targets], skip_special_tokens=True)
        return decoded

    def save(self, folder: Path) -> None:
        """Writes the model's own tokenizer files."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def _ids(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    tokenizer.no_padding()
    tokenizer.no_truncation()  # source and target may be the same object
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    chunks = (texts[begin : begin + _CHUNK] for begin in range(0, len(texts), _CHUNK))
    return [encoding.ids for chunk in chunks for encoding in tokenizer.encode_batch(list(chunk))]
