"""safetensors of a translation model: a model folder for transformers with weights of 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinybert_cli.formats.base import TranslationFormat
from tinybert_cli.formats.safetensors import DTYPE, FILE, safetensors_limitations, safetensors_usage, write_safetensors
from tinybert_cli.translation_tokenizer import TranslationTokenizer


def write_translation_safetensors(
    model: Any, tokenizer: TranslationTokenizer, folder: Path, *, dtype: str | None = None
) -> None:
    """Writes model.safetensors in bfloat16 or float16, config.json and the tokenizer's own files."""
    write_safetensors(model, {}, folder, dtype=dtype)
    tokenizer.save(folder)


SAFETENSORS_TRANSLATION = TranslationFormat(
    weights=(FILE,),
    precision=DTYPE,
    write=write_translation_safetensors,
    runtime="transformers",
    usage=safetensors_usage,
    options=("dtype",),
    library="transformers",
    limitations=safetensors_limitations,
)
