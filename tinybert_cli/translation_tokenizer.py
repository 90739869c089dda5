"""The tokenizers of a translation model, without torch and transformers.

Source and target text may be split by different models. Most models have one for both; Marian has two SentencePiece
models with one vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tinybert_cli.errors import InputError, is_panic
from tinybert_cli.files import read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "translation.json"  # of an export folder: how its tokenizers are read
_CHUNK = 1000  # texts that are tokenized in one call
_SPACE = "\u2581"  # of SentencePiece


class Side(Protocol):
    """Text of one side as token ids, special tokens included, and ids as text without them."""

    @property
    def size(self) -> int:
        """1 + the largest id."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, targets: Sequence[Sequence[int]]) -> list[str]: ...
    def tokens(self) -> dict[str, int]:
        """Token → id."""

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        """Writes what `read_tokenizer` needs besides the model's own files; returns the entry for translation.json."""


@dataclass(frozen=True)
class FastSide:
    """A tokenizer of the library `tokenizers`."""

    tokenizer: Tokenizer

    @property
    def size(self) -> int:
        return 1 + max(self.tokens().values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        chunks = (list(texts[begin : begin + _CHUNK]) for begin in range(0, len(texts), _CHUNK))
        return [encoding.ids for chunk in chunks for encoding in self.tokenizer.encode_batch(chunk)]

    def decode(self, targets: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.decode_batch([list(ids) for ids in targets], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def tokens(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return vocabulary

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        file = f"{name}_tokenizer.json"
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.save(str(folder / file))
        return {"tokenizer": file}


@dataclass(frozen=True)
class SentencePieceSide:
    """A SentencePiece model whose pieces have the ids of a vocabulary, as in MarianTokenizer and M2M100Tokenizer.

    Special tokens that are written in a text become that token, as in transformers. With `codes`, a text may begin with
    a language code, `>>deu<<`, which is one token.
    """

    model: bytes
    file: str  # the name of the file with the model
    vocabulary: Mapping[str, int]
    vocabulary_file: str
    special: Mapping[str, int]
    unknown: int
    before: tuple[int, ...] = ()  # the ids before every text
    after: tuple[int, ...] = ()  # the ids after it
    codes: bool = False
    languages: Mapping[str, int] = field(default_factory=dict)  # the codes of M2M100, which texts do not contain

    @property
    def size(self) -> int:
        return 1 + max(self.tokens().values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*self.before, *self._ids(text), *self.after] for text in texts]

    def decode(self, targets: Sequence[Sequence[int]]) -> list[str]:
        special = {*self.special.values(), *self.languages.values(), self.unknown}
        names = self._names
        return [
            self._processor.decode_pieces([names[token] for token in ids if token not in special and token in names])
            .replace(_SPACE, " ")
            .strip()
            for ids in targets
        ]

    def tokens(self) -> dict[str, int]:
        return {**self.vocabulary, **self.special, **self.languages}

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        return {
            "sentencepiece": self.file,
            "vocabulary": self.vocabulary_file,
            "special": dict(self.special),
            "unknown": self.unknown,
            "before": list(self.before),
            "after": list(self.after),
            "codes": self.codes,
            "languages": dict(self.languages),
        }

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, is_special in self._parts(text):
            if is_special:
                ids.append(self.special[part])
                continue
            if self.codes and part.startswith(">>") and (end := part.find("<<")) != -1:
                ids.append(self.vocabulary.get(part[: end + 2], self.unknown))
                part = part[end + 2 :]
            ids += [self.vocabulary.get(piece, self.unknown) for piece in self._processor.encode(part, out_type=str)]
        return ids

    def _parts(self, text: str) -> list[tuple[str, bool]]:
        """The text between special tokens, and these."""
        if not any(token in text for token in self.special):
            return [(text, False)]
        import re

        pattern = "|".join(re.escape(token) for token in sorted(self.special, key=len, reverse=True))
        parts = [part for part in re.split(f"({pattern})", text) if part]
        return [(part, part in self.special) for part in parts]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: token for token, index in self.vocabulary.items()}

    @cached_property
    def _processor(self) -> Any:
        try:
            import sentencepiece
        except ImportError as error:
            raise InputError(
                "the package 'sentencepiece' is not installed", hint="pip install 'tinybert[translation]'"
            ) from error
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise InputError("the SentencePiece model cannot be read", where=self.file) from error
        return processor


@dataclass(frozen=True)
class TranslationTokenizer:
    """Texts of both sides as token ids, and ids as texts."""

    source: Side
    target: Side  # its ids are the labels
    start: int  # the first decoder input
    end: int
    padding: int
    prefix: tuple[int, ...] = ()  # the ids before every target text: the language code, if it comes first
    files: Mapping[str, bytes] = field(default_factory=dict)  # what `save` writes: the model's own tokenizer files

    @property
    def size(self) -> int:
        """Number of token ids."""
        return max(self.source.size, self.target.size)

    def source_ids(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """The tokens of source texts, special tokens included, cut to `max_length`."""
        ids = self.source.encode(texts)
        return ids if max_length is None else self.cut(ids, max_length)

    def cut(self, sources: Iterable[list[int]], max_length: int) -> list[list[int]]:
        """The tokens of source texts, cut to `max_length`: the special tokens stay."""
        end = self._source_end
        return [row if len(row) <= max_length else [*row[: max_length - len(end)], *end] for row in sources]

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The labels of target texts, special tokens included, not cut."""
        return self.target.encode(texts)

    def texts(self, targets: Iterable[Sequence[int]]) -> list[str]:
        """Generated tokens as text, without special tokens."""
        return self.target.decode(list(targets))

    def save(self, folder: Path) -> None:
        """Writes the model's own tokenizer files."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def write(self, folder: Path) -> None:
        """Writes the model's own files and those that `read_tokenizer` reads without transformers."""
        self.save(folder)
        sides = {"source": self.source.write(folder, "source"), "target": self.target.write(folder, "target")}
        numbers = {"start": self.start, "end": self.end, "padding": self.padding, "prefix": list(self.prefix)}
        (folder / FILE).write_text(json.dumps({**numbers, **sides}, indent=2) + "\n", encoding="utf-8")

    @cached_property
    def _source_end(self) -> list[int]:
        """The special tokens after a source text."""
        empty, letter = self.source.encode(["", "a"])
        common = 0
        while common < min(len(empty), len(letter)) and empty[-1 - common] == letter[-1 - common]:
            common += 1
        return empty[len(empty) - common :]


def read_tokenizer(folder: Path) -> TranslationTokenizer:
    """The tokenizers of an export folder, without torch and transformers.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        values = read_object(folder / FILE)
        source, target = (_read_side(folder, values[name]) for name in ("source", "target"))
        start, end, padding = (int(values[name]) for name in ("start", "end", "padding"))
        return TranslationTokenizer(source, target, start, end, padding, tuple(map(int, values["prefix"])))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"the tokenizer cannot be read: {error!r}", where=str(folder), hint="export it again"
        ) from error


def _read_side(folder: Path, entry: Mapping[str, Any]) -> Side:
    if "tokenizer" in entry:
        return FastSide(_read_fast(folder / str(entry["tokenizer"])))
    vocabulary = read_object(folder / str(entry["vocabulary"]))
    file = str(entry["sentencepiece"])
    return SentencePieceSide(
        (folder / file).read_bytes(), file, vocabulary, str(entry["vocabulary"]), dict(entry["special"]),
        int(entry["unknown"]), tuple(entry["before"]), tuple(entry["after"]), bool(entry["codes"]),
        dict(entry["languages"]),
    )  # fmt: skip


def _read_fast(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except BaseException as error:  # tokenizers raises bare exceptions, or panics
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise InputError(f"the tokenizer cannot be read: {error}", where=str(file), hint="export it again") from error
