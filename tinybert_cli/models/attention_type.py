"""BigBird: which tokens attend to each other depends on the batch alone, not on the batches before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinybert_cli.input_limits import full_attention_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_attention_type(model: PreTrainedModel) -> None:
    """Patch a BigBird so that its attention to a long batch is sparse, also after a batch that is too short for that.

    transformers makes it full for the short batch, and leaves it so: the outputs for long texts would change after the
    first short ones. Models of other families are not changed.
    """
    longest = full_attention_length(model.config.to_dict())
    if longest is None:
        return

    def restore(module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids = inputs[0] if inputs else named["input_ids"]
        if ids.shape[1] > longest:
            module.set_attention_type("block_sparse")

    model.base_model.register_forward_pre_hook(restore, with_kwargs=True)
