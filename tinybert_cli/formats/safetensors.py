"""safetensors: a model folder for transformers with weights of 16 bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.errors import ConfigError
from tinybert_cli.formats.base import Export, Format

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.safetensors"
DTYPE = "bfloat16"  # the default, because CPUs can compute with it


def write_safetensors(model: Any, inputs: Mapping[str, Tensor], folder: Path, *, dtype: str | None = None) -> None:
    """Writes model.safetensors in bfloat16 or float16, and a config.json with this dtype.

    bfloat16 has the range of float32 and 8 bits of precision; float16 has 11 bits and a maximum of 65,504.

    Raises:
        ConfigError: a weight is too large for float16.
    """
    import torch

    dtype = dtype or DTYPE
    model = copy.deepcopy(model).cpu().to({"bfloat16": torch.bfloat16, "float16": torch.float16}[dtype])
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"'{name}' has values too large for {dtype}", key=("dtype",), hint="dtype: bfloat16")
    model.save_pretrained(folder)


def safetensors_usage(export: Export) -> dict[str, str]:
    slow = ", where float16 is very slow" if export.precision == "float16" else ""
    return {
        "transformers": f"```python\n{export.code}\n```\n\nThis computes in {export.precision}. "
        f'On a CPU{slow}, pass `dtype="float32"` to `pipeline`: it was verified that way.',
        "tinybert": f"```sh\n{export.command}\n```\n\nThis computes in float32.",
    }


def safetensors_limitations(export: Export) -> list[str]:
    return [
        f"The weights are in {export.precision}, but verification and timing computed in float32. Arithmetic in "
        f"{export.precision}, as on a GPU, changes the logits further."
    ]


SAFETENSORS = Format(
    weights=FILE,
    precision=DTYPE,
    write=write_safetensors,
    runtime="transformers",
    usage=safetensors_usage,
    options=("dtype",),
    library="transformers",
    limitations=safetensors_limitations,
)
