"""safetensors of a translation model: a model folder for transformers with weights of 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinybert_cli.formats.base import Export, TranslationFormat
from tinybert_cli.formats.safetensors import DTYPE, FILE, safetensors_limitations, write_safetensors
from tinybert_cli.translation_tokenizer import TranslationTokenizer


def write_translation_safetensors(
    model: Any, tokenizer: TranslationTokenizer, folder: Path, *, dtype: str | None = None
) -> None:
    """Writes model.safetensors in bfloat16 or float16, config.json and the tokenizer's own files."""
    write_safetensors(model, {}, folder, dtype=dtype)
    tokenizer.save(folder)


def translation_safetensors_usage(export: Export) -> dict[str, str]:
    slow = " (on a CPU, float16 is very slow)" if export.precision == "float16" else ""
    return {
        "transformers": f"```python\n{export.code}\n```\n\nThis computes in float32, as in verification. Without "
        f"`dtype`, it computes in {export.precision}{slow}.",
        "tinybert": f"```sh\n{export.command}\n```\n\nThis computes in float32.",
    }


SAFETENSORS_TRANSLATION = TranslationFormat(
    weights=(FILE,),
    precision=DTYPE,
    write=write_translation_safetensors,
    runtime="transformers",
    usage=translation_safetensors_usage,
    options=("dtype",),
    library="transformers",
    limitations=safetensors_limitations,
)
