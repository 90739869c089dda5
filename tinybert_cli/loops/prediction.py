"""Prediction: what a model says of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, Tensor]
Array = np.ndarray[Any, np.dtype[Any]]


class Examples(Protocol):
    """Rows that come as batches."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


def forward(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What the model says about a batch: `logits` (B, ...)."""
    said: Mapping[str, Tensor] = model(**{name: value for name, value in batch.items() if name in MODEL_INPUTS})
    return said


def predict(
    model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], *, accelerator: Accelerator | None = None
) -> Iterator[tuple[list[int], Array]]:
    """The logits of each batch, float32 (B, ...), with the positions of its rows; in eval mode, without gradients.

    With several processes each takes every n-th batch; every process is given all the answers.
    """
    model.eval()
    device = device_of(model)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with torch.no_grad():
        for begin in range(0, len(batches), world):
            mine = batches[begin + rank] if begin + rank < len(batches) else []
            answer = (mine, _logits(model, examples, mine, device)) if mine else None
            if world == 1:
                assert answer is not None
                yield answer
                continue
            from accelerate.utils import gather_object

            yield from (item for item in gather_object([answer]) if item is not None)


def predict_all(model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], **options: Any) -> Array:
    """The logits of all rows, in their order (N, ...)."""
    parts = list(predict(model, examples, batches, **options))
    order = np.concatenate([np.asarray(rows) for rows, _ in parts])
    logits: Array = np.concatenate([values for _, values in parts])
    return logits[np.argsort(order)]


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; an exported model has none, and takes its input on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _logits(model: torch.nn.Module, examples: Examples, rows: list[int], device: torch.device) -> Array:
    batch = {name: value.to(device) for name, value in examples.__getitems__(rows).items()}
    logits: Array = forward(model, batch)["logits"].float().cpu().numpy()
    return logits


MODEL_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
