"""The interface of an export format: how a model is written, loaded without torch, quantized and described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tinybert_cli.types import Array, Translator


class Session(Protocol):
    """An exported model that computes logits without torch."""

    @property
    def inputs(self) -> Sequence[str]:
        """The names of its inputs, of input_ids, attention_mask and token_type_ids."""

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        """Logits, (B, C) or (B, T, C), of inputs (B, T)."""


BITS = ("matrix_bits", "embedding_bits")  # settings of export: bits of a weight in int8; 8 by default


@dataclass(frozen=True)
class Int8:
    """Quantization of a format: first `prepare(float32 file, batches)`, then
    `write(float32 file, int8 file, prepared, exclude, eight_bits=parts, twelve_bits=parts, **options)`.

    `prepare` gets unpadded batches of real rows, on which it measures the ranges of activations. `file` is the name of
    the int8 file, beside the float32 file; `options` are the settings of export that `write` takes;
    `parts(float32 file, exclude)` lists the parts of it that int8 changes, by the names that `exclude` accepts. `write`
    returns the options that change nothing, and why.
    """

    file: str
    prepare: Callable[..., Any]
    write: Callable[..., Mapping[str, str]]
    options: tuple[str, ...]
    parts: Callable[[Path, Sequence[str]], list[str]]


@dataclass(frozen=True)
class Half:
    """float16 weights of a format, for GPUs, in a file beside the float32 file, which `predict` and `eval` read.

    `write(float32 file, float16 file)`; `load` opens the float16 file.
    """

    file: str
    write: Callable[[Path, Path], None]
    load: Callable[[Path], Session]


@dataclass(frozen=True)
class Export:
    """A finished export, for its description in the model card."""

    folder: str
    model: str  # the model that was exported
    precision: str  # of the weights
    code: str  # Python code that loads and runs a model folder with transformers
    command: str  # the shell command that predicts with it
    example: str = ""  # Python code that uses an ONNX export without tinybert, as in its example.py


@dataclass(frozen=True)
class Format:
    """An export format.

    `write(model, inputs, folder, **options)` writes into an empty folder; `options` are the settings of export that it
    takes. `weights` is the file that it writes, `older` its names in folders of older versions, `precision` that of its
    weights unless `dtype` is given.
    `load` opens a folder without torch; None: it is a model folder of transformers.
    `usage` gives heading → Markdown for the model card, `limitations` sentences for it.

    All of this is in `subfolder` of the export, if it has one; `finish(export, **options)` writes what is around it.
    """

    weights: str
    precision: str
    write: Callable[..., None]
    runtime: str  # what loads it, in words
    usage: Callable[[Export], dict[str, str]]
    options: tuple[str, ...] = ()
    load: Callable[[Path], Session] | None = None
    int8: Int8 | None = None
    subfolder: str = ""
    finish: Callable[..., None] | None = None
    tasks: tuple[str, ...] | None = None  # None: all that make predictions
    library: str | None = None  # the Hub's name of what loads it
    limitations: Callable[[Export], list[str]] = lambda export: []
    older: tuple[str, ...] = ()
    half: Half | None = None
    example: str | None = None  # the file with `Export.example`

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold weights; `load` opens the first of them that a folder has."""
        return (*([self.int8.file] if self.int8 else []), self.weights, *self.older)

    def file(self, folder: Path) -> Path | None:
        """The file that `load` opens; None if the folder has none."""
        return next((folder / name for name in self.files if (folder / name).is_file()), None)

    @property
    def settings(self) -> set[str]:
        """The settings of export that this format reads, besides those that all formats read."""
        return {*self.options, *(("quantize", "quantize_exclude", *self.int8.options) if self.int8 else ())}


@dataclass(frozen=True)
class TranslationFormat:
    """An export format of translation models.

    `write(model, tokenizer, folder, **options)` writes into an empty folder; `options` are the settings of export that
    it takes, and, if it has `int8`, `quantize`. `weights` are the files with the weights; the first marks such a
    folder. `load` opens a folder without torch; None: it is a model folder of transformers. `beams`: whether it has a
    beam search; else it is greedy.
    """

    weights: tuple[str, ...]
    precision: str
    write: Callable[..., None]
    runtime: str
    usage: Callable[[Export], dict[str, str]]
    options: tuple[str, ...] = ()
    load: Callable[[Path], Translator] | None = None
    int8: bool = False
    beams: bool = True
    library: str | None = None
    limitations: Callable[[Export], list[str]] = lambda export: []

    @property
    def settings(self) -> set[str]:
        """The settings of export that this format reads, besides those that all formats read."""
        return {*self.options, *(("quantize",) if self.int8 else ())}
