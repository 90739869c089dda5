"""Models that compute logits in `eval`: the rows encoded for them, their predictions, and their costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli import data, loops, models, tasks
from tinybert_cli.config import Eval, Latency
from tinybert_cli.errors import InputError
from tinybert_cli.predictor import Predictor, check_logits, load_predictor
from tinybert_cli.types import Array, Encoded, Predictions, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator

TIMED_ROWS = 256  # rows that the latencies are measured on, or as many as there are
COUNTED_ROWS = 64  # rows whose multiplications are counted


@dataclass(frozen=True)
class Candidate:
    """A model with the rows encoded for it."""

    source: models.Source
    predictor: Predictor
    encoded: Encoded
    examples: data.Examples
    facts: Mapping[str, float]
    columns: list[int] | None = None  # the model's output for each class of the reference; None: in the same order

    @property
    def lengths(self) -> Array:
        """Tokens of each row (N,)."""
        return row_lengths(self.encoded)


def names_of_model(config: Eval, task: tasks.PredictionTask, source: models.Source) -> list[str] | None:
    """The classes of a model; if it does not name them, those in the config, or their indices."""
    names = models.read_label_names(source) or config.data.class_names
    if names is None and task.output_type in ("class", "classes"):
        return models.check_outputs(source, None, None)
    return names


def load_candidate(
    config: Eval, task: tasks.PredictionTask, source: models.Source, rows: Rows, names: list[str]
) -> Candidate:
    """A model with the rows encoded for it.

    Raises:
        InputError: its labels are not the reference's, or in another order although the rows do not have their names;
            or it does not fit the rows.
    """
    own = models.read_label_names(source) or names
    reordered = own != names and sorted(own) == sorted(names) and task.labels_are_names(rows, config.data, names)
    if not reordered:
        task.label_names(rows, config.data, model_names=own)
        _check_equal(own, names, source)
    predictor = load_predictor(source, task=task, label_names=own)
    models.check_inputs(source, predictor.torch_tokenizer, config.data)
    encoded = task.encode(rows, config.data, predictor.torch_tokenizer)
    examples = data.Examples.of(encoded)
    timed = [] if config.latency is None else [length for length in config.latency.lengths if isinstance(length, int)]
    models.check_length(source, max(timed, default=0), setting="latency.lengths")
    columns = [own.index(name) for name in names] if reordered else None
    return Candidate(
        source, predictor, encoded, examples, {"bytes": predictor.weights_bytes, **predictor.size}, columns
    )


def _check_equal(own: list[str], names: list[str], source: models.Source) -> None:
    if own != names:
        raise InputError(
            f"'{source.name}' has other labels than the reference, or another order:\n  model:     {', '.join(own)}\n"
            f"  reference: {', '.join(names)}",
            hint="score models with other labels in an eval of their own, with the same rows",
        )


def predictions_of(
    config: Eval,
    task: tasks.PredictionTask,
    candidate: Candidate,
    rows: Rows,
    names: list[str],
    *,
    accelerator: Accelerator | None = None,
) -> Predictions:
    """The predictions for all rows; several processes share the rows."""
    batches = data.sorted_batches(candidate.examples.lengths, config.per_device_eval_batch_size)
    logits = loops.predict_all(candidate.predictor.module, candidate.examples, batches, accelerator=accelerator)
    layout, settings = candidate.encoded.layout, candidate.predictor.config
    check_logits(logits, layout, rows, candidate.source.name)
    if candidate.columns is None:
        return task.decide(logits, layout, names, rows, config.data, settings)
    thresholded = task.apply_thresholds(logits, layout, settings)  # in the model's own order
    return task.predictions(thresholded[:, candidate.columns], layout, names, rows, config.data)


def row_lengths(encoded: Encoded) -> Array:
    """Tokens of each row (N,), whatever windows it is split into."""
    offsets = encoded.offsets if encoded.row_windows is None else encoded.offsets[encoded.row_windows]
    return np.subtract(offsets[1:], offsets[:-1], dtype=np.int32, casting="same_kind")


def costs_of(candidates: Mapping[str, Candidate], latency: Latency) -> dict[str, dict[str, float]]:
    """`latency_ms_b1`, `latency_ms_b32_t128_p95`, `multiply_adds`, ... → model → number."""
    costs: dict[str, dict[str, float]] = {}
    modules = {name: candidate.predictor.module for name, candidate in candidates.items()}
    for size in latency.batch_sizes:
        for length in latency.lengths:
            key = f"latency_ms_b{size}" + ("" if length == "data" else f"_t{length}")
            tokens = None if length == "data" else length
            batches = {
                name: candidate.examples.timing_batches(size, tokens, TIMED_ROWS)
                for name, candidate in candidates.items()
            }
            times = loops.latencies(modules, batches)
            costs[key] = {name: float(np.median(values)) for name, values in times.items()}
            costs[f"{key}_p95"] = {name: float(np.percentile(values, 95)) for name, values in times.items()}
    costs["multiply_adds"] = {
        name: loops.multiply_adds(modules[name], candidate.examples.timing_batches(1, None, COUNTED_ROWS))
        for name, candidate in candidates.items()
        if "parameters" in candidate.facts
    }
    return costs
