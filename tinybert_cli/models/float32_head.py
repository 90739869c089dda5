"""A head that computes in float32, whatever the precision of the encoder below it.

bf16 has 8 significant bits: a head that computes in it gives 2016 for every number from 2012 to 2020. The encoder may
compute in bf16, because its outputs are normalized; the last matrix products cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli.models.bf16 import to_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compute_head_in_float32(model: PreTrainedModel) -> None:
    """Patch the model so that its pooler and its head get float32 inputs and ignore autocast.

    Weights, names and saved files do not change. Without a head nothing changes.
    """
    for module in _head_modules(model):
        _Float32Forward(module)
    if has_separate_head(model):
        model.base_model.register_forward_hook(_last_hidden_state_to_float32)


def has_separate_head(model: PreTrainedModel) -> bool:
    """Whether the head can be told from the encoder."""
    return model.base_model is not model


def to_bf16_with_float32_head(model: PreTrainedModel) -> None:
    """Convert the weights of the encoder to bf16; head and pooler compute in float32."""
    compute_head_in_float32(model)
    to_bf16(model.base_model)
    for module in _head_modules(model):
        module.float()


def _head_modules(model: PreTrainedModel) -> Iterator[torch.nn.Module]:
    """The modules outside of the encoder, and the pooler, which most families have inside of it."""
    encoder = model.base_model
    if has_separate_head(model):
        yield from (module for module in model.children() if module is not encoder)
        yield from (module for name, module in encoder.named_children() if name == "pooler")


class _Float32Forward:
    """Replaces `forward` of a module. An object, not a closure: a deep copy has its own module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        device = next((value.device.type for value in values if isinstance(value, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return type(self.module).forward(
                self.module, *map(_to_float32, args), **{name: _to_float32(value) for name, value in kwargs.items()}
            )


def _last_hidden_state_to_float32(module: torch.nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
    """A forward hook of the encoder, for heads that pool the tokens before their first module."""
    outputs["last_hidden_state"] = _to_float32(outputs["last_hidden_state"])
    return outputs


def _to_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
