"""Other forms of a model: how one is written, and read back so that it can be compared with the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_cli.errors import look_up
from tinybert_cli.formats import onnx, safetensors
from tinybert_cli.formats.int8 import parts_of_onnx, quantize_onnx
from tinybert_cli.formats.onnx import read_onnx, write_onnx
from tinybert_cli.formats.safetensors import write_safetensors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Int8:
    """`write(float32 file, int8 file, exclude, **options)`; `options` are settings of export, as those of a Format.

    `parts` names what of a float32 file int8 changes, and what can be left out.
    """

    write: Callable[..., None]
    options: tuple[str, ...]
    parts: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Format:
    """What a model is written as: `write(model, inputs, folder, **options)` into an empty folder.

    `weights` is the file to look for, `precision` what it holds unless `dtype` is given, `options` the settings of
    export that `write` takes by their names. `read` makes a model of such a folder; None: it is a model folder, which
    is loaded as any other.
    """

    weights: str
    precision: str
    write: Callable[..., None]
    options: tuple[str, ...]
    read: Callable[[Path], torch.nn.Module] | None = None
    int8: Int8 | None = None

    @property
    def settings(self) -> set[str]:
        """The settings of export that mean something for this format, and not for all."""
        return {*self.options, *(("quantize", "quantize_exclude", *self.int8.options) if self.int8 else ())}


def find(name: str) -> Format:
    """The format of that name, or a ConfigError that lists them."""
    return look_up(FORMATS, name, "format")


def read_exported(folder: Path) -> torch.nn.Module | None:
    """The exported model in the folder, in whatever format it is; None if it is no export folder, or a model folder."""
    for form in FORMATS.values():
        if form.read is not None and (folder / form.weights).is_file():
            return form.read(folder)
    return None


FORMATS: dict[str, Format] = {
    "onnx": Format(
        onnx.FILE, "float32", write_onnx, ("opset",), read_onnx, Int8(quantize_onnx, ("embedding_bits",), parts_of_onnx)
    ),
    "safetensors": Format(safetensors.FILE, safetensors.DTYPE, write_safetensors, ("dtype",)),
}

__all__ = [
    "FORMATS",
    "Format",
    "Int8",
    "find",
    "parts_of_onnx",
    "quantize_onnx",
    "read_exported",
    "read_onnx",
    "write_onnx",
    "write_safetensors",
]
