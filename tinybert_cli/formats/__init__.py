"""Other runtimes: how a model is written for one, and read back so that it can be compared with the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tinybert_cli.errors import look_up
from tinybert_cli.formats import onnx
from tinybert_cli.formats.int8 import parts_of_onnx, quantize_onnx
from tinybert_cli.formats.onnx import read_onnx, write_onnx


class Write(Protocol):
    def __call__(self, model: Any, inputs: Mapping[str, Tensor], folder: Path, *, opset: int | None) -> None: ...


@dataclass(frozen=True)
class Format:
    """A runtime: `write` a model into an empty folder, `read` it back as a model; `weights` is the file to look for.

    `quantize` makes an int8 file of a float32 one, but for some of its `parts`.
    """

    weights: str
    write: Write
    read: Callable[[Path], torch.nn.Module]
    quantize: Callable[[Path, Path, Sequence[str]], None]
    parts: Callable[[Path], list[str]]


def find(name: str) -> Format:
    """The format of that name, or a ConfigError that lists them."""
    return look_up(FORMATS, name, "format")


def read_exported(folder: Path) -> torch.nn.Module | None:
    """The exported model in the folder, in whatever format it is; None if it is no export folder."""
    for form in FORMATS.values():
        if (folder / form.weights).is_file():
            return form.read(folder)
    return None


FORMATS: dict[str, Format] = {
    "onnx": Format(onnx.FILE, write_onnx, read_onnx, quantize_onnx, parts_of_onnx),
}

__all__ = [
    "FORMATS",
    "Format",
    "find",
    "parts_of_onnx",
    "quantize_onnx",
    "read_exported",
    "read_onnx",
    "write_onnx",
]
