"""Export formats: one file and one row of FORMATS each. Importing this package does not import torch."""

from __future__ import annotations

from pathlib import Path

from tinybert_cli.errors import look_up
from tinybert_cli.files import read_object
from tinybert_cli.formats.base import BITS, Export, Format, Int8, Session, TranslationFormat
from tinybert_cli.formats.ctranslate2 import CTRANSLATE2, Ctranslate2Translator, write_ctranslate2
from tinybert_cli.formats.ctranslate2 import is_installed as ctranslate2_is_installed
from tinybert_cli.formats.ctranslate2 import version as ctranslate2_version
from tinybert_cli.formats.onnx import ONNX
from tinybert_cli.formats.onnx_translation import ONNX_TRANSLATION
from tinybert_cli.formats.safetensors import SAFETENSORS
from tinybert_cli.formats.safetensors_translation import SAFETENSORS_TRANSLATION
from tinybert_cli.formats.spacy import SPACY

LAYOUT, LAYOUT_KEY = 2, "tinybert_layout"  # of export folders, in config.json; 1: folders without it, of 0.2.0

MODEL_WEIGHTS = (  # of a model folder
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip

FORMATS: dict[str, Format] = {"onnx": ONNX, "safetensors": SAFETENSORS, "spacy": SPACY}


TRANSLATION_FORMATS: dict[str, TranslationFormat] = {
    "ctranslate2": CTRANSLATE2, "onnx": ONNX_TRANSLATION, "safetensors": SAFETENSORS_TRANSLATION
}  # fmt: skip


def detect_translation(folder: Path) -> TranslationFormat | None:
    """The format of an export folder of a translation model; None if it is a model folder, or neither."""
    for form in TRANSLATION_FORMATS.values():
        if form.load is not None and (folder / form.weights[0]).is_file():
            return form
    return None


def find(name: str) -> Format:
    """The format of that name, or a ConfigError that lists them."""
    return look_up(FORMATS, name, "format")


def find_translation(name: str) -> TranslationFormat:
    """The same for translation models."""
    return look_up(TRANSLATION_FORMATS, name, "format")


def detect(folder: Path) -> Format | None:
    """The format of an export folder; None if it is a model folder, or neither.

    ONNX files of other tools beside the weights of a model, as in many folders of the Hub, do not make it an export.
    """
    for form in FORMATS.values():
        inside = folder / form.subfolder
        if form.load is not None and form.file(inside) is not None:
            return None if _is_model(inside) else form
    return None


def _is_model(folder: Path) -> bool:
    """Whether a folder has the weights of a model, and is no export."""
    if not any((folder / name).is_file() for name in MODEL_WEIGHTS):
        return False
    config = folder / "config.json"
    return not (config.is_file() and LAYOUT_KEY in read_object(config))


__all__ = [
    "BITS",
    "FORMATS",
    "LAYOUT",
    "LAYOUT_KEY",
    "TRANSLATION_FORMATS",
    "Ctranslate2Translator",
    "Export",
    "Format",
    "Int8",
    "Session",
    "TranslationFormat",
    "ctranslate2_is_installed",
    "ctranslate2_version",
    "detect",
    "detect_translation",
    "find",
    "find_translation",
    "write_ctranslate2",
]
