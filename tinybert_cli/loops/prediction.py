"""Prediction: what a model says of every batch, and how long it takes to say it."""

from __future__ import annotations

import time
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
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
    answer: str = "logits",
) -> Iterator[tuple[list[int], Array]]:
    """The model's `answer` to each batch (B, ...), with the positions of its rows; in eval mode, without gradients.

    With several processes each takes every n-th batch; every process is given all the answers.
    """
    model.eval()
    device = _device_of(model)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with torch.no_grad():
        for begin in range(0, len(batches), world):
            mine = batches[begin + rank] if begin + rank < len(batches) else []
            said = (mine, _answer(model, examples, mine, device, answer)) if mine else None
            if world == 1:
                assert said is not None
                yield said
                continue
            from accelerate.utils import gather_object

            yield from (item for item in gather_object([said]) if item is not None)


def predict_all(model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], **options: Any) -> Array:
    """The logits of all rows, in their order (N, ...)."""
    parts = list(predict(model, examples, batches, **options))
    order = np.concatenate([np.asarray(rows) for rows, _ in parts])
    logits: Array = np.concatenate([values for _, values in parts])
    return logits[np.argsort(order)]


def latencies(nets: Mapping[str, torch.nn.Module], batches: Mapping[str, Sequence[Batch]]) -> dict[str, float]:
    """Median milliseconds of one forward pass of each model over its batches, after a warm-up.

    The models take turns batch by batch, so that the ratios hold on a machine whose speed drifts.
    """
    taken: dict[str, list[float]] = {name: [] for name in nets}
    places = {name: _device_of(net) for name, net in nets.items()}
    rounds = list(zip(*batches.values(), strict=True))
    with torch.no_grad():
        for number, shown in enumerate([*rounds[:3], *rounds]):  # the first three are the warm-up
            for name, batch in zip(batches, shown, strict=True):
                on_device = {key: value.to(places[name]) for key, value in batch.items()}
                begin = time.perf_counter()
                forward(nets[name].eval(), on_device)["logits"].cpu()
                if number >= len(rounds[:3]):
                    taken[name].append(1000 * (time.perf_counter() - begin))
    return {name: float(np.median(values)) for name, values in taken.items()}


def _device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; an exported model has none, and takes its input on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _answer(model: torch.nn.Module, examples: Examples, rows: list[int], device: torch.device, name: str) -> Array:
    batch = {name: value.to(device) for name, value in examples.__getitems__(rows).items()}
    said = forward(model, batch)[name]
    values: Array = (said.float() if said.is_floating_point() else said).cpu().numpy()  # numpy has no bfloat16
    return values


MODEL_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "own_words"}
