"""Prediction: what a model says of every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.types import Array, Batch, Examples

if TYPE_CHECKING:
    from accelerate import Accelerator

StepLoss = Callable[[torch.nn.Module, Batch], Mapping[str, Tensor]]  # must return "loss", and may name its parts
T = TypeVar("T")


def forward(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What the model says about a batch: `logits` (A, C), one of each window, or of each of its `places`.

    Places (A,) are of all the numbers of an answer, (A, C) of each of them.
    """
    said: Mapping[str, Tensor] = model(**{name: value for name, value in batch.items() if name in MODEL_INPUTS})
    if "start_logits" in said:  # (B, T) each, where a model of transformers points at both ends of a span
        said = {**said, "logits": torch.stack([said["start_logits"], said["end_logits"]], dim=-1)}
    if "positions" not in batch:
        return said
    logits, places = said["logits"].flatten(0, 1), batch["positions"]  # (B · T, C)
    return {**said, "logits": logits[places] if places.dim() == 1 else logits.gather(0, places)}


def predict(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
    output: str = "logits",
) -> Iterator[tuple[list[int], Array]]:
    """The model's `answer` to each batch (A, ...), with the positions of its rows; in eval mode, without gradients.

    With several processes each takes every n-th batch; every process is given all the answers.
    """
    for rows, said in predict_outputs(model, examples, batches, [output], accelerator=accelerator):
        yield rows, said[output]


def predict_outputs(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    answers: Iterable[str],
    *,
    accelerator: Accelerator | None = None,
) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """`predict`, of several of the model's answers at once; float16 stays what it is, other numbers are float32."""
    names = list(answers)

    def said(batch: Batch) -> dict[str, Array]:
        found = forward(model, batch)
        return {name: _array(found[name]) for name in names}

    return _each(said, model, examples, batches, accelerator)


def _array(values: Tensor) -> Array:
    exact = not values.is_floating_point() or values.dtype == torch.float16
    found: Array = (values if exact else values.float()).cpu().numpy()  # numpy has no bfloat16
    return found


def predict_all(model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], **options: Any) -> Array:
    """The logits of all rows, in their order (A, C)."""
    parts = list(predict(model, examples, batches, **options))
    order = np.concatenate([examples.prediction_indices(rows) for rows, _ in parts])
    logits: Array = np.concatenate([values for _, values in parts])
    return logits[np.argsort(order)]


def mean_loss(
    model: torch.nn.Module,
    loss: StepLoss,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """The loss and its parts over all tokens, in eval mode, without gradients; `predict` says how it is shared."""

    def parts(batch: Batch) -> tuple[int, dict[str, float]]:
        found = {name: float(value) for name, value in loss(model, batch).items()}
        return int(batch["attention_mask"].sum()), found

    found = [answer for _, answer in _each(parts, model, examples, batches, accelerator)]
    tokens = sum(count for count, _ in found)
    return {name: sum(count * values[name] for count, values in found) / tokens for name in found[0][1]}


class SessionModule(torch.nn.Module):
    """An exported model as a torch module on the CPU, called like a model of transformers."""

    def __init__(self, session: Callable[[Mapping[str, Array]], Array]) -> None:
        super().__init__()
        self.session = session

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits, (B, C) or (B, T, C), of input_ids, attention_mask, ... (B, T)."""
        return {"logits": torch.from_numpy(self.session({name: values.numpy() for name, values in inputs.items()}))}


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; an exported model has none, and takes its input on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _each(
    answer: Callable[[Batch], T],
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    accelerator: Accelerator | None,
) -> Iterator[tuple[list[int], T]]:
    """What is to be said of each batch, with the positions of its rows."""
    model.eval()
    device = device_of(model)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with torch.no_grad():
        for begin in range(0, len(batches), world):
            mine = batches[begin + rank] if begin + rank < len(batches) else []
            batch = {name: value.to(device) for name, value in examples.__getitems__(mine).items()} if mine else {}
            said = (mine, answer(batch)) if mine else None
            if world == 1:
                assert said is not None
                yield said
                continue
            from accelerate.utils import gather_object

            yield from (item for item in gather_object([said]) if item is not None)


MODEL_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "own_words"}
