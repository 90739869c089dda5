"""Converting models to bf16, except for what needs more than its 8 significant bits."""

from __future__ import annotations

import torch


def to_bf16(model: torch.nn.Module) -> None:
    """Convert a model to bf16, but not the frequencies of its rotary positions, as transformers loads it.

    The angle of a token is its position times a frequency. With frequencies in bf16 it is off by half a radian at
    position 512, and arbitrary a few thousand tokens later.
    """
    frequencies = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to(torch.bfloat16)
    for name, buffer in frequencies.items():
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, buffer)
