"""spaCy: a pipeline folder that `spacy.load` opens; its component `tinybert` is an ONNX export in a subfolder."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.formats.base import Export
from tinybert_cli.formats.onnx import FILE, INT8_FILE, ONNX, write_onnx

if TYPE_CHECKING:
    import torch
    from spacy.language import Language

COMPONENT = "tinybert"  # its name, that of its factory (an entry point in pyproject.toml) and that of its folder
LANGUAGE = "xx"  # spaCy's name of a tokenizer for any language


def write(
    model: Any, inputs: Mapping[str, torch.Tensor], folder: Path, *, opset: int | None = None, language: str | None
) -> None:
    """Writes the ONNX export of the component, see `write_onnx`.

    Raises:
        InputError: spaCy is not installed.
        ConfigError: it does not know the language.
    """
    blank_pipeline(language)
    write_onnx(model, inputs, folder, opset=opset)


def write_pipeline(folder: Path, *, opset: int | None = None, language: str | None) -> None:
    """Writes the tokenizer of the language, config.cfg and meta.json around the folder of the component.

    Float32 weights are removed if there is int8: what is packaged should be small.
    """
    if (folder / COMPONENT / INT8_FILE).exists():
        (folder / COMPONENT / FILE).unlink()
    nlp = blank_pipeline(language)
    nlp.to_disk(folder)
    config = nlp.config.copy()
    config["nlp"]["pipeline"] = [COMPONENT]
    config["components"] = {COMPONENT: {"factory": COMPONENT}}
    config.to_disk(folder / "config.cfg")
    major, minor, _ = version("tinybert").split(".", 2)
    meta = {
        **nlp.meta,
        "name": COMPONENT,
        "description": "A model that tinybert has exported.",
        "pipeline": [COMPONENT],
        "components": [COMPONENT],
        "requirements": [f"tinybert[spacy]>={major}.{minor}"],
    }
    import srsly

    srsly.write_json(folder / "meta.json", meta)


def blank_pipeline(language: str | None) -> Language:
    """A pipeline of spaCy without components.

    Raises:
        InputError: spaCy is not installed, or a package that it needs for the language.
        ConfigError: it does not know the language.
    """
    if importlib.util.find_spec("spacy") is None:
        raise InputError("the package 'spacy' is not installed", hint="pip install 'tinybert[spacy]'")
    import spacy

    name = LANGUAGE if language is None else language
    try:
        spacy.util.get_lang_class(name)
    except ImportError as error:
        hint = "a code such as en, de, zh; null for any language"
        raise ConfigError(f"spaCy knows no language '{name}'", key=("language",), hint=hint) from error
    try:
        return spacy.blank(name)
    except ImportError as error:  # of sudachipy, pyvi, ...
        message, _, _ = str(error).partition("\n")
        raise InputError(f"spaCy's tokenizer of '{name}' needs another package: {message}") from error


def usage(export: Export) -> dict[str, str]:
    return {
        "spaCy": f"```python\n{_CODE.format(folder=export.folder)}\n```\n\nThis needs `tinybert[spacy]`, and no torch. "
        "`spacy package` makes a package of the folder, which `pip` installs.",
        "tinybert": f"```sh\n{export.command}\n```",
        "transformers": f"Load {export.model}, the original; this export is for spaCy.",
    }


_CODE = """import spacy

nlp = spacy.load("{folder}")
doc = nlp("Better than it looks.")
print(doc.cats, doc.ents, doc._.tinybert)"""

SPACY = dataclasses.replace(
    ONNX,
    write=write,
    runtime="spaCy",
    usage=usage,
    options=("opset", "language"),
    library="spacy",
    int8=None if ONNX.int8 is None else dataclasses.replace(ONNX.int8, options=("matrix_bits", "embedding_bits")),
    half=None,
    example=None,
    subfolder=COMPONENT,
    finish=write_pipeline,
    tasks=("text-classification", "multi-label-classification", "token-classification"),
)
