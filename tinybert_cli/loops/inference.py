"""Inference: a model's outputs for every batch.

Shapes: B batch, T tokens, P predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from tinybert_cli.loops.out_of_memory import compute_in_parts
from tinybert_cli.scratch_files import empty
from tinybert_cli.types import Array, Batch, Examples

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


@dataclass(frozen=True)
class StepLoss:
    """A loss that is a weighted sum of means, for steps of several batches, in several processes.

    A mean over all rows of a step is the sum of the means of its batches, each times its share of the denominators.
    """

    means: Callable[[torch.nn.Module, Batch], Mapping[str, Tensor]]  # name → mean over the batch, 0 over nothing
    denominators: Callable[[Batch], Mapping[str, Tensor]]  # name → what the mean is over: tokens, labels, ...
    weights: Mapping[str, float]

    def total(self, means: Mapping[str, Any]) -> Any:
        """The weighted sum."""
        return sum(weight * means[name] for name, weight in self.weights.items())


def forward(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """The model's outputs for a batch, with `logits` (P, C): one prediction per window, or one per `positions`.

    `positions` (P,) index the tokens of the batch (B · T), or its target tokens (B · U).
    """
    inputs = {name: value for name, value in batch.items() if name in MODEL_INPUTS}
    if "decoder_input_ids" in batch:
        with _output_layer_reads(model, batch["positions"]):
            translated: Mapping[str, Tensor] = model(**inputs, use_cache=False)
        return translated
    outputs: Mapping[str, Tensor] = model(**inputs)
    if "start_logits" in outputs:  # (B, T) each, from the question-answering models of transformers
        outputs = {**outputs, "logits": torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)}
    if "positions" not in batch:
        return outputs
    return {**outputs, "logits": outputs["logits"].flatten(0, 1)[batch["positions"]]}


@contextmanager
def _output_layer_reads(model: torch.nn.Module, positions: Tensor) -> Iterator[None]:
    """The output layer computes logits (P, V) of these positions only: padding costs no product with the vocabulary."""
    from transformers import PreTrainedModel

    inner = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    hook = inner.get_output_embeddings().register_forward_pre_hook(
        lambda module, inputs: (inputs[0].flatten(0, 1)[positions],)
    )
    try:
        yield
    finally:
        hook.remove()


def predict(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
    output: str = "logits",
) -> Iterator[tuple[list[int], Array]]:
    """One output of the model for every batch (P, ...), with the indices of the batch's rows.

    The model is in eval mode and computes no gradients. Several processes share the batches: process r of n computes
    batch r, r + n, ..., and every process gets all results.
    """
    for rows, outputs in predict_outputs(model, examples, batches, [output], accelerator=accelerator):
        yield rows, outputs[output]


def predict_outputs(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    outputs: Iterable[str],
    *,
    accelerator: Accelerator | None = None,
) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """`predict` for several outputs of the model at once; float16 stays float16, other numbers become float32."""
    names = list(outputs)

    def compute(batch: Batch) -> dict[str, Array]:
        values = forward(model, batch)
        return {name: _array(values[name]) for name in names}

    return map_batches(compute, model, examples, batches, accelerator)


def predict_all(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
) -> Array:
    """The logits (P, C) of all rows, in the order of the rows; several processes exchange theirs at the end."""
    own = predict(model, examples, own_batches(batches, accelerator))
    results: Iterable[tuple[Array, Array]] = ((examples.prediction_indices(rows), values) for rows, values in own)
    if accelerator is not None and accelerator.num_processes > 1:
        results = of_all_processes(list(results), accelerator)
    logits: Array | None = None
    for indices, values in results:
        if logits is None:
            logits = empty((examples.prediction_count, *values.shape[1:]), values.dtype)
        logits[indices] = values
    assert logits is not None  # there are rows
    return logits


def mean_loss(
    model: torch.nn.Module,
    loss: StepLoss,
    examples: Examples,
    batches: Sequence[list[int]],
    *,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """The loss and its parts over all rows, for any batch size; eval mode, no gradients, shared as in `predict_all`."""

    def compute(batch: Batch) -> dict[str, tuple[float, float]]:
        means, denominators = loss.means(model, batch), loss.denominators(batch)
        return {name: (float(means[name]), float(denominators[name])) for name in loss.weights}

    own = [result for _, result in map_batches(compute, model, examples, own_batches(batches, accelerator), None)]
    results = of_all_processes(own, accelerator)
    means = {name: weighted_mean([result[name] for result in results]) for name in loss.weights}
    return {"loss": loss.total(means), **means}


class SessionModule(torch.nn.Module):
    """An exported model as a torch module on the CPU, called like a model of transformers."""

    def __init__(self, session: Callable[[Mapping[str, Array]], Array]) -> None:
        super().__init__()
        self.session = session

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits, (B, C) or (B, T, C), of input_ids, attention_mask, ... (B, T)."""
        return {"logits": torch.from_numpy(self.session({name: values.numpy() for name, values in inputs.items()}))}


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of the model's weights. An exported model has none and takes its inputs on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def own_batches(batches: Sequence[list[int]], accelerator: Accelerator | None) -> Sequence[list[int]]:
    """Of n processes, process r computes the batches r, r + n, ..."""
    return batches if accelerator is None else batches[accelerator.process_index :: accelerator.num_processes]


def of_all_processes(results: list[T], accelerator: Accelerator | None) -> list[T]:
    """The results of all processes, on all processes, those of process 0 first."""
    if accelerator is None or accelerator.num_processes == 1:
        return results
    from accelerate.utils import gather_object

    gathered: list[T] = gather_object(results)
    return gathered


def map_batches(
    compute: Callable[[Batch], T],
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    accelerator: Accelerator | None,
) -> Iterator[tuple[list[int], T]]:
    """Applies `compute` to every batch, sharded over processes; yields (row indices, result).

    If the memory of a GPU does not suffice for a batch, its parts are yielded.
    """
    model.eval()
    device = device_of(model)
    rank, world_size = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)

    def read(rows: list[int]) -> tuple[Batch, int]:
        batch = examples.__getitems__(rows)
        return batch, max(batch[name].numel() for name in ("attention_mask", "decoder_attention_mask") if name in batch)

    def compute_there(batch: Batch) -> T:
        return compute({name: value.to(device) for name, value in batch.items()})

    with torch.no_grad():
        for begin in range(0, len(batches), world_size):
            rows = batches[begin + rank] if begin + rank < len(batches) else []  # [] where the last group is short
            results = compute_in_parts(model, rows, read, compute_there, device) if rows else iter(())
            if world_size == 1:
                yield from results
                continue
            from accelerate.utils import gather_object

            yield from gather_object(list(results))


def weighted_mean(parts: Iterable[tuple[float, float]]) -> float:
    """The mean of (mean, denominator) parts; 0 over nothing."""
    pairs = list(parts)
    return sum(mean * denominator for mean, denominator in pairs) / (sum(of for _, of in pairs) or 1.0)


def _array(values: Tensor) -> Array:
    exact = not values.is_floating_point() or values.dtype == torch.float16
    array: Array = (values if exact else values.float()).cpu().numpy()  # numpy has no bfloat16
    return array


MODEL_INPUTS = {
    "input_ids", "attention_mask", "token_type_ids", "own_words", "decoder_input_ids", "decoder_attention_mask"
}  # fmt: skip
