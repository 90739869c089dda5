"""safetensors: a model folder for transformers, its weights in half the bytes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.safetensors"
DTYPE = "bfloat16"  # unless told otherwise: a CPU can compute with it


def write_safetensors(model: Any, inputs: Mapping[str, Tensor], folder: Path, *, dtype: str | None = None) -> None:
    """Writes model.safetensors in bfloat16 or float16, and a config.json that says so.

    bfloat16 keeps float32's range and 8 bits of precision, float16 has 11 bits and ends at 65,504.

    Raises:
        ConfigError: a weight is too large for float16.
    """
    import torch

    dtype = dtype or DTYPE
    model = copy.deepcopy(model).cpu().to({"bfloat16": torch.bfloat16, "float16": torch.float16}[dtype])
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"'{name}' holds numbers too large for {dtype}", key=("dtype",), hint="dtype: bfloat16")
    model.save_pretrained(folder)
